import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, expect, test } from 'vitest';

import { startEmbeddedPostgres } from '../../src/postgres/embedded.ts';
import { runCli, startCli, type RunningCli } from './run-cli.ts';

let dataDir: string;
let server: RunningCli | undefined;

beforeEach(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'keyledger-cli-'));
});

afterEach(async () => {
  server?.child.kill('SIGKILL');
  await server?.ended;
  await rm(dataDir, { recursive: true, force: true });
});

test('commands use the Postgres of the server that runs on DATA_DIR, and start it themselves where none does', async () => {
  const env = { DATA_DIR: dataDir, PORT: '0', LOG_LEVEL: 'silent' };
  // Nothing there yet: bootstrap makes the ledger, and leaves no process and no lock.
  const made = await runCli(['bootstrap', '--organization', 'Acme', '--json'], env);
  expect(made.code).toBe(0);
  expect(existsSync(join(dataDir, 'postgres', 'postmaster.pid'))).toBe(false);
  expect(existsSync(join(dataDir, 'keyledger.pid'))).toBe(false);

  server = startCli(['serve'], env);
  await server.line(/listens on http:\/\/127\.0\.0\.1:\d+/);
  const [listed, checked] = await Promise.all([runCli(['token', 'list'], env), runCli(['check'], env)]);
  expect(listed).toMatchObject({ code: 0, err: '' });
  expect(listed.out).toContain('First owner');
  expect(checked).toMatchObject({ code: 0, err: '' });
  server.child.kill('SIGTERM');
  expect(await server.ended).toMatchObject({ code: 0 });

  expect(await runCli(['check'], env)).toMatchObject({ code: 0, err: '' });
  expect(existsSync(join(dataDir, 'keyledger.pid'))).toBe(false);
});

test('a Postgres of one’s own may be reached by a Unix socket', async ({ skip }) => {
  const postgres = await startEmbeddedPostgres({ dataDir, onLog: () => undefined });
  try {
    const socketDir = new URL(postgres.serverUrl.reveal()).searchParams.get('host');
    if (socketDir === null) return skip('Postgres can make no socket here');
    // Where the name of the host were asked for, it would not be found.
    const bySocket = (given: typeof postgres.serverUrl): string => {
      const url = new URL(given.reveal());
      url.hostname = 'nowhere.invalid';
      return url.toString();
    };
    const env = {
      DATABASE_URL: bySocket(postgres.serverUrl),
      MIGRATION_DATABASE_URL: bySocket(postgres.ownerUrl),
      DATA_DIR: join(dataDir, 'server'),
      KEY_PEPPERS: `p1:${randomBytes(32).toString('base64')}`,
      PORT: '0',
      LOG_LEVEL: 'silent',
    };
    expect(await runCli(['migrate'], env)).toMatchObject({ code: 0, err: '' });
    server = startCli(['serve'], env);
    await server.line(/listens on http:\/\/127\.0\.0\.1:\d+/);
    expect(await runCli(['check'], env)).toMatchObject({ code: 0, err: '' });
    server.child.kill('SIGTERM');
    expect(await server.ended).toMatchObject({ code: 0 });
    await postgres.stop();
    const refused = await runCli(['check'], env);
    expect(refused.code).not.toBe(0);
    expect(refused.err).toContain(`${socketDir}/.s.PGSQL.`);
  } finally {
    await postgres.stop();
  }
});
