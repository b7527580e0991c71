import { randomBytes } from 'node:crypto';

import pg from 'pg';
import type { TestProject } from 'vitest/node';

import { Secret } from '../../src/lib/secret.ts';
import { migrate } from '../../src/postgres/migrate.ts';
import { startTestPostgres, type TestPostgres } from './test-postgres.ts';

/** What the workers are told; plain text, since it crosses processes. */
export type ProvidedPostgres = {
  readonly kind: TestPostgres['kind'];
  readonly adminUrl: string;
  /** Names of databases and roles of this run begin with it. */
  readonly run: string;
  readonly template: string;
  readonly owner: { readonly login: string; readonly password: string };
  readonly app: { readonly login: string; readonly password: string };
};

declare module 'vitest' {
  export interface ProvidedContext {
    postgres: ProvidedPostgres;
  }
}

/** One Postgres for the run, with one migrated template database that test files clone. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const postgres = await startTestPostgres(process.env);
  console.log(`Postgres for the tests: ${postgres.description}`);
  const run = `kltest_${randomBytes(4).toString('hex')}`;
  const password = randomBytes(16).toString('hex');
  const provided: ProvidedPostgres = {
    kind: postgres.kind,
    adminUrl: postgres.adminUrl.reveal(),
    run,
    template: `${run}_template`,
    owner: { login: `${run}_owner`, password },
    app: { login: `${run}_app`, password },
  };
  const hadServerRole = await asAdmin(
    provided,
    async (admin) => (await admin.query("SELECT FROM pg_roles WHERE rolname = 'keyledger_server'")).rowCount === 1,
  );
  const teardown = async () => {
    try {
      await asAdmin(provided, (admin) => removeRun(admin, provided, hadServerRole));
    } finally {
      await postgres.stop();
    }
  };
  try {
    await asAdmin(provided, (admin) => makeRun(admin, provided, hadServerRole));
    const ownerUrl = new URL(provided.adminUrl);
    ownerUrl.username = provided.owner.login;
    ownerUrl.password = password;
    ownerUrl.pathname = `/${provided.template}`;
    await migrate({ ownerUrl: new Secret(ownerUrl.toString()) });
  } catch (error) {
    await teardown();
    throw error;
  }
  project.provide('postgres', provided);
  return teardown;
}

async function makeRun(admin: pg.Client, { owner, app, template }: ProvidedPostgres, hadServerRole: boolean): Promise<void> {
  if (!hadServerRole) await admin.query('CREATE ROLE keyledger_server NOLOGIN');
  await admin.query(`CREATE ROLE ${owner.login} LOGIN CREATEROLE PASSWORD '${owner.password}'`);
  await admin.query(`CREATE ROLE ${app.login} LOGIN PASSWORD '${app.password}'`);
  await admin.query(`GRANT keyledger_server TO ${owner.login} WITH ADMIN TRUE`);
  await admin.query(`GRANT keyledger_server TO ${app.login}`);
  await admin.query(`GRANT ${owner.login} TO CURRENT_USER`);
  await admin.query(`CREATE DATABASE ${template} OWNER ${owner.login}`);
}

async function removeRun(admin: pg.Client, { run, owner, app }: ProvidedPostgres, hadServerRole: boolean): Promise<void> {
  const left = await admin.query<{ name: string }>("SELECT datname AS name FROM pg_database WHERE datname LIKE $1 || '\\_%'", [run]);
  for (const { name } of left.rows) await admin.query(`DROP DATABASE IF EXISTS ${admin.escapeIdentifier(name)} WITH (FORCE)`);
  await admin.query(`DROP ROLE IF EXISTS ${app.login}`);
  await admin.query(`DROP ROLE IF EXISTS ${owner.login}`);
  // Of a run beside this one it may still be needed; then that one's databases hold it.
  if (!hadServerRole) await admin.query('DROP ROLE IF EXISTS keyledger_server').catch(() => undefined);
}

async function asAdmin<T>(provided: ProvidedPostgres, work: (admin: pg.Client) => Promise<T>): Promise<T> {
  const admin = new pg.Client({ connectionString: provided.adminUrl, application_name: provided.run, connectionTimeoutMillis: 10_000 });
  admin.on('error', () => undefined);
  await admin.connect();
  try {
    return await work(admin);
  } finally {
    await admin.end();
  }
}
