import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, expect, test } from 'vitest';

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
