import type pg from 'pg';

import type { Database } from './pool.ts';

const OLDEST_VERSION = 18;

/** The database would not keep what keyledger acknowledges; each reason is one sentence with its remedy. */
export class UnsafeDatabase extends Error {
  override readonly name = 'UnsafeDatabase';
  readonly reasons: readonly string[];
  constructor(reasons: readonly string[]) {
    super(reasons.join('\n'));
    this.reasons = reasons;
  }
}

/** As `current_setting` gives them; `version` is `server_version_num`. */
export type DurabilitySettings = {
  readonly version: string;
  readonly fsync: string;
  readonly full_page_writes: string;
  readonly synchronous_commit: string;
};

/**
 * Refuses (throws {@link UnsafeDatabase}) a Postgres that could lose an acknowledged event in a crash, or is too old.
 * Asked before migrating, so that nothing is made in a database that is refused, and over the server's own pool, since `synchronous_commit` may differ by role.
 */
export async function assertDurableSettings(connection: Database['pool'] | pg.Client): Promise<void> {
  const { rows } = await connection.query<DurabilitySettings>(`
    SELECT current_setting('server_version_num') AS version,
           current_setting('fsync')              AS fsync,
           current_setting('full_page_writes')   AS full_page_writes,
           current_setting('synchronous_commit') AS synchronous_commit`);
  const [settings] = rows;
  if (settings === undefined) throw new Error('Postgres did not answer what its settings are.');
  const reasons = durabilityFaults(settings);
  if (reasons.length > 0) throw new UnsafeDatabase(reasons);
}

/**
 * `synchronous_commit` may be `local`, `remote_write`, `on` or `remote_apply`: each waits for this server's disk, and how far standbys are waited
 * for is the operator's choice. Only `off` acknowledges before anything is on a disk.
 */
export function durabilityFaults(settings: DurabilitySettings): readonly string[] {
  const faults: string[] = [];
  const version = Math.floor(Number(settings.version) / 10_000);
  if (!(version >= OLDEST_VERSION)) {
    faults.push(
      `Postgres ${version} is too old: keyledger needs Postgres ${OLDEST_VERSION} or later. Upgrade the server, or unset DATABASE_URL to use the embedded one.`,
    );
  }
  if (settings.fsync === 'off') {
    faults.push(
      "fsync is off, so a crash of the machine can destroy the log. Turn it on: ALTER SYSTEM SET fsync = 'on'; SELECT pg_reload_conf();",
    );
  }
  if (settings.full_page_writes === 'off') {
    faults.push(
      "full_page_writes is off, so a crash of the machine can tear pages of the log. Turn it on: ALTER SYSTEM SET full_page_writes = 'on'; SELECT pg_reload_conf();",
    );
  }
  if (settings.synchronous_commit === 'off') {
    faults.push(
      "synchronous_commit is off, so a crash loses events that were acknowledged. Turn it on where it was turned off (ALTER SYSTEM, ALTER DATABASE or ALTER ROLE): ALTER SYSTEM SET synchronous_commit = 'on'; SELECT pg_reload_conf();",
    );
  }
  return faults;
}
