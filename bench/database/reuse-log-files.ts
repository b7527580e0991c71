import type pg from 'pg';

const MESSAGE_BYTES = 16_000_000;
const MESSAGES = 60;

/**
 * Brings Postgres to where it is after some minutes of use: the files of its log are used again. A new one is filled with zeros in the middle of a commit, until the first checkpoint has let old ones
 * be used again, and a p99 should have nothing of that. Writes 1 GB.
 */
export async function reuseLogFiles(admin: pg.Client, signal: AbortSignal): Promise<void> {
  for (let message = 0; message < MESSAGES; message++) {
    signal.throwIfAborted();
    await admin.query("SELECT pg_logical_emit_message(false, 'bench', repeat('x', $1))", [MESSAGE_BYTES]);
  }
  await admin.query('CHECKPOINT');
}
