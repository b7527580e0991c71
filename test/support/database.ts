import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';

import pg from 'pg';
import { inject } from 'vitest';

import { Secret } from '../../src/lib/secret.ts';
import type { ProvidedPostgres } from './global-setup.ts';

export type TestDatabase = {
  readonly name: string;
  /** Owns the tables. */
  readonly ownerUrl: Secret;
  /** Least privilege: nothing but a member of `keyledger_server`. */
  readonly serverUrl: Secret;
  /** Ends every session in it and removes it. */
  drop(): Promise<void>;
};

const CLONE_DEADLINE_MS = 20_000;
const OBJECT_IN_USE = '55006';

/**
 * A database of the caller's own, cloned from the migrated template; made once in a test file. `empty: true` gives one without any migration.
 */
export async function createTestDatabase(options: { readonly empty?: boolean } = {}): Promise<TestDatabase> {
  const provided = inject('postgres');
  const name = `${provided.run}_${randomBytes(5).toString('hex')}`;
  await asAdmin(async (admin) => {
    const template = options.empty === true ? 'template1' : provided.template;
    await clone(admin, name, template, provided.owner.login);
    // Grants on a database stand outside it, so a clone has the defaults.
    await admin.query(`REVOKE ALL ON DATABASE ${name} FROM PUBLIC`);
    await admin.query(`GRANT CONNECT ON DATABASE ${name} TO keyledger_server`);
  });
  return {
    name,
    ownerUrl: urlOf(provided, provided.owner, name),
    serverUrl: urlOf(provided, provided.app, name),
    drop: () => asAdmin(async (admin) => void (await admin.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`))),
  };
}

/** Runs `work` with a login that may do everything in the test Postgres, connected to `database` or to its own. */
export async function asAdmin<T>(work: (admin: pg.Client) => Promise<T>, database?: string): Promise<T> {
  const url = new URL(inject('postgres').adminUrl);
  if (database !== undefined) url.pathname = `/${database}`;
  const admin = new pg.Client({
    connectionString: url.toString(),
    application_name: 'keyledger test admin',
    connectionTimeoutMillis: 10_000,
  });
  admin.on('error', () => undefined);
  await admin.connect();
  try {
    return await work(admin);
  } finally {
    await admin.end();
  }
}

/** The backends of a database, those of one application only where it is named. */
export function backendPids(database: TestDatabase, applicationName?: string): Promise<readonly number[]> {
  return asAdmin(async (admin) => {
    const { rows } = await admin.query<{ pid: number }>(
      "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend' AND ($2::text IS NULL OR application_name = $2) ORDER BY pid",
      [database.name, applicationName ?? null],
    );
    return rows.map(({ pid }) => pid);
  });
}

/** Why this run can't freeze or kill single backends (they are on another machine or in a container); undefined when it can. Print it where a test is skipped. */
export function whyNoBackendSignals(): string | undefined {
  const { kind } = inject('postgres');
  if (kind !== 'embedded') return `backends of ${kind} can't be signalled from here`;
  return process.platform === 'win32' ? 'there is no SIGSTOP on Windows' : undefined;
}

export function canSignalBackends(): boolean {
  return whyNoBackendSignals() === undefined;
}

/** SIGSTOP freezes a backend (not the postmaster: that freezes nobody), SIGCONT wakes it; SIGKILL makes the whole server restart. */
export function signalBackend(pid: number, signal: 'SIGSTOP' | 'SIGCONT' | 'SIGTERM'): void {
  const why = whyNoBackendSignals();
  if (why !== undefined) throw new Error(why);
  process.kill(pid, signal);
}

function urlOf(provided: ProvidedPostgres, { login, password }: ProvidedPostgres['owner'], database: string): Secret {
  const url = new URL(provided.adminUrl);
  url.username = login;
  url.password = password;
  url.pathname = `/${database}`;
  return new Secret(url.toString());
}

/** A template can't be cloned while another clone of it begins. */
async function clone(admin: pg.Client, name: string, template: string, owner: string): Promise<void> {
  const deadline = Date.now() + CLONE_DEADLINE_MS;
  for (;;) {
    try {
      // Through the write-ahead log, which is what Postgres does unless told, it takes seven times as long.
      await admin.query(`CREATE DATABASE ${name} TEMPLATE ${template} STRATEGY FILE_COPY OWNER ${owner}`);
      return;
    } catch (error) {
      if (!(error instanceof pg.DatabaseError) || error.code !== OBJECT_IN_USE || Date.now() > deadline) throw error;
      await sleep(50 + Math.random() * 100);
    }
  }
}
