import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import pg from 'pg';

import { Secret } from '../../src/lib/secret.ts';
import { startEmbeddedPostgres } from '../../src/postgres/embedded.ts';
import { EMBEDDED } from '../../src/postgres/embedded-roles.ts';

export type BenchPostgres = {
  readonly pid: number;
  /** `18.4` */
  readonly version: string;
  /** Where the data lies. */
  readonly directory: string;
  createDatabase(name: string): Promise<{ readonly ownerUrl: Secret; readonly serverUrl: Secret }>;
  /** What it wrote to its log. */
  log(): readonly string[];
  /** A superuser's connection to database `postgres`. */
  readonly admin: pg.Client;
  /** Stops it and removes its directory. */
  stop(): Promise<void>;
};

/**
 * The product's own embedded Postgres in a directory of its own below `parent` (a disk, not memory: a commit has to cost what it costs), with the settings it always has.
 * `explain` samples the plans of nested statements, those inside `admit` too, into its log.
 */
export async function startBenchPostgres(options: {
  readonly parent: string | undefined;
  readonly explain: boolean;
  readonly signal: AbortSignal;
}): Promise<BenchPostgres> {
  const directory = await mkdtemp(join(options.parent ?? tmpdir(), 'keyledger-bench-'));
  const lines: string[] = [];
  let server;
  try {
    server = await startEmbeddedPostgres({ dataDir: directory, onLog: (line) => lines.push(line), signal: options.signal });
  } catch (error) {
    await rm(directory, { recursive: true, force: true });
    throw error;
  }
  const { adminUrl, ownerUrl, serverUrl, pid } = server;
  const stop = async (): Promise<void> => {
    await server.stop();
    await rm(directory, { recursive: true, force: true });
  };
  const admin = new pg.Client({ connectionString: adminUrl.reveal(), connectionTimeoutMillis: 10_000 });
  admin.on('error', () => undefined);
  try {
    await admin.connect();
    if (options.explain) await explainNested(admin);
    const version = (await admin.query<{ server_version: string }>('SHOW server_version')).rows[0]?.server_version ?? 'unknown';
    return {
      pid,
      version,
      directory,
      admin,
      async createDatabase(name) {
        await admin.query(`CREATE DATABASE ${name} OWNER ${EMBEDDED.owner}`);
        await admin.query(`REVOKE ALL ON DATABASE ${name} FROM PUBLIC`);
        await admin.query(`GRANT CONNECT ON DATABASE ${name} TO ${EMBEDDED.app}`);
        return { ownerUrl: withDatabase(ownerUrl, name), serverUrl: withDatabase(serverUrl, name) };
      },
      log: () => lines,
      async stop() {
        await admin.end();
        await stop();
      },
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** auto_explain for the sessions of the server's login: plans with times of one statement in a hundred, those that functions run included. */
async function explainNested(admin: pg.Client): Promise<void> {
  const settings = {
    session_preload_libraries: "'auto_explain'",
    'auto_explain.log_min_duration': '0',
    'auto_explain.log_nested_statements': 'on',
    'auto_explain.log_analyze': 'on',
    'auto_explain.log_timing': 'on',
    'auto_explain.log_buffers': 'on',
    'auto_explain.sample_rate': process.env.RATE ?? '0.01',
  };
  for (const [name, value] of Object.entries(settings)) await admin.query(`ALTER ROLE ${EMBEDDED.app} SET ${name} = ${value}`);
}

function withDatabase(url: Secret, name: string): Secret {
  const changed = new URL(url.reveal());
  changed.pathname = `/${name}`;
  return new Secret(changed.toString());
}
