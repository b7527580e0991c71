import { randomBytes } from 'node:crypto';
import { link, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { parsePeppers, type PepperKey } from './pepper-key.ts';

const FILE = 'key-peppers';
const FIRST_ID = 'p1';
const KEY_BYTES = 32;

/**
 * The peppers in `dataDir/key-peppers` (0600, the form of KEY_PEPPERS); made at the first call, with one pepper of 256 random bits.
 * For the embedded Postgres only: where the database stands elsewhere, servers must share the peppers, and the operator sets them.
 */
export async function loadOrCreatePepper(dataDir: string): Promise<readonly PepperKey[]> {
  const path = join(dataDir, FILE);
  const existing = await read(path);
  if (existing !== undefined) return parse(existing, path);

  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  const whole = `${path}.${randomBytes(6).toString('hex')}`;
  await writeFile(whole, `${FIRST_ID}:${randomBytes(KEY_BYTES).toString('base64')}\n`, { mode: 0o600, flag: 'wx', flush: true });
  try {
    // link, not rename: of two processes at once the first one's pepper stays.
    await link(whole, path).catch((error: unknown) => {
      if (!hasCode(error, 'EEXIST')) throw error;
    });
  } finally {
    await rm(whole, { force: true });
  }
  return parse(await readFile(path, 'utf8'), path);
}

async function read(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    if (hasCode(cause, 'ENOENT')) return undefined;
    throw new Error(`${path} can't be read. Start keyledger as the user who owns the data directory.`, { cause });
  }
}

function parse(text: string, path: string): readonly PepperKey[] {
  const parsed = parsePeppers(text.trim());
  if ('peppers' in parsed) return parsed.peppers;
  throw new Error(`${path} is damaged: ${parsed.faults.join('; ')}. Put it back from a backup of the data directory.`);
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}
