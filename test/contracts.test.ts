import { execFile } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { afterAll, beforeAll, expect, it } from 'vitest';

import { EVENT_TYPES } from '../src/domain/event.ts';
import { textMatching } from './support/matching.ts';

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'keyledger-contracts-'));
});
afterAll(() => rm(directory, { recursive: true, force: true }));

type Ended = { readonly code: number; readonly stdout: string; readonly stderr: string };

async function contracts(...args: readonly string[]): Promise<Ended> {
  try {
    return { code: 0, ...(await promisify(execFile)(process.execPath, ['src/contracts.ts', ...args])) };
  } catch (error) {
    return error as Ended;
  }
}

it('the contracts in schema/ are those of the code', async () => {
  expect(await contracts('--check')).toMatchObject({ code: 0, stderr: '' });
});

it('contracts that differ or are missing are named', async () => {
  expect((await contracts('--directory', directory)).code).toBe(0);
  expect((await readdir(directory)).sort()).toEqual(['events.json', 'openapi.json', 'schema.graphql']);
  expect((await contracts('--check', '--directory', directory)).code).toBe(0);
  const events = JSON.parse(await readFile(join(directory, 'events.json'), 'utf8')) as { $defs: object };
  expect(Object.keys(events.$defs).sort()).toEqual([...EVENT_TYPES].sort());
  await writeFile(join(directory, 'events.json'), '{}\n');
  await rm(join(directory, 'openapi.json'));
  const { code, stderr } = await contracts('--check', '--directory', directory);
  expect(code).toBe(1);
  expect(stderr).toContain(join(directory, 'events.json'));
  expect(stderr).toContain(join(directory, 'openapi.json'));
  expect(stderr).not.toContain('schema.graphql');
});

it('wrong usage is told with exit code 2', async () => {
  expect(await contracts('--nonsense')).toMatchObject({ code: 2, stderr: textMatching('Usage:') });
});
