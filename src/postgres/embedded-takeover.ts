import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { isAlive, isErrno, isPostgresOf } from './process-identity.ts';

const SECOND = 1_000;
const POLL_MS = 50;

/**
 * Ends the server that a killed keyledger left running on this cluster, so that the next one is again a child of ours; removes a
 * `postmaster.pid` whose process is somebody else's by now (ids are reused after a reboot). Call it only while holding the data directory.
 *
 * A `postmaster.pid` whose process is gone stays: Postgres reads in it which shared memory to look for, and refuses to start while a
 * last backend still uses that.
 */
export async function endServerLeftBehind(clusterDir: string, onLog: (line: string) => void): Promise<void> {
  const path = join(clusterDir, 'postmaster.pid');
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return;
    throw error;
  }
  const pid = Number(text.split('\n')[0]);
  if (!Number.isInteger(pid) || pid <= 1 || !(await isPostgresOf(pid, clusterDir))) {
    if (!Number.isInteger(pid) || pid <= 1 || (await isAlive(pid))) await rm(path, { force: true });
    return;
  }
  onLog(`stopping the Postgres (process ${pid}) that an earlier keyledger left behind`);
  for (const [signal, patienceMs] of [
    ['SIGINT', 30 * SECOND],
    ['SIGQUIT', 10 * SECOND],
  ] as const) {
    process.kill(pid, signal);
    const deadline = Date.now() + patienceMs;
    while (Date.now() < deadline) {
      if (!(await isPostgresOf(pid, clusterDir))) return;
      await sleep(POLL_MS);
    }
  }
  throw new Error(
    `A Postgres left behind by an earlier keyledger (process ${pid}, ${clusterDir}) does not stop. End it, then start again.`,
  );
}
