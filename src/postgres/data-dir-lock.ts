import { randomBytes } from 'node:crypto';
import { link, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { isAlive, isErrno, startToken } from './process-identity.ts';

export class DataDirInUse extends Error {
  override readonly name = 'DataDirInUse';
}

type Holder = { readonly pid: number; readonly startToken: string };

const FILE = 'keyledger.pid';
const ATTEMPTS = 5;

/**
 * Takes the data directory for this process, or throws {@link DataDirInUse} when a living process has it. A lock left by a process that
 * was killed is taken over: the file names its holder by id and start time, so that a new process with the same id isn't mistaken for it.
 * Postgres' own `postmaster.pid` stands behind this one; it is what makes two servers on one cluster impossible.
 */
export async function lockDataDir(dataDir: string): Promise<{ release(): Promise<void> }> {
  const path = join(dataDir, FILE);
  const mine = JSON.stringify({ pid: process.pid, startToken: (await startToken(process.pid)) ?? '' } satisfies Holder);
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    try {
      await writeFile(path, mine, { flag: 'wx', mode: 0o600 });
      return { release: () => rm(path, { force: true }) };
    } catch (error) {
      if (!isErrno(error, 'EEXIST')) throw error;
    }
    const text = await readFile(path, 'utf8').catch(() => undefined);
    if (text === undefined) continue;
    const holder = parseHolder(text);
    if (holder !== undefined && (await isHeldBy(holder))) {
      throw new DataDirInUse(
        `The data directory ${dataDir} is in use by another keyledger (process ${holder.pid}). Stop that one, or give this one a DATA_DIR of its own.`,
      );
    }
    await removeStale(path, text);
  }
  throw new DataDirInUse(`The data directory ${dataDir} is being taken by several processes at once. Try again.`);
}

/** The living process that has the data directory; undefined where none has. */
export async function dataDirHolder(dataDir: string): Promise<number | undefined> {
  const text = await readFile(join(dataDir, FILE), 'utf8').catch(() => undefined);
  const holder = text === undefined ? undefined : parseHolder(text);
  return holder !== undefined && (await isHeldBy(holder)) ? holder.pid : undefined;
}

async function isHeldBy(holder: Holder): Promise<boolean> {
  return (await isAlive(holder.pid)) && (await startToken(holder.pid)) === holder.startToken;
}

/** Moves the stale file away before removing it: had another process replaced it meanwhile, the fresh one is put back. */
async function removeStale(path: string, staleText: string): Promise<void> {
  const aside = `${path}.${randomBytes(6).toString('hex')}`;
  try {
    await rename(path, aside);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return;
    throw error;
  }
  const moved = await readFile(aside, 'utf8');
  if (moved !== staleText) await link(aside, path).catch(() => undefined);
  await rm(aside, { force: true });
}

function parseHolder(text: string): Holder | undefined {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== 'object' || value === null || !('pid' in value) || !('startToken' in value)) return undefined;
    const { pid, startToken: token } = value;
    return typeof pid === 'number' && Number.isInteger(pid) && pid > 0 && typeof token === 'string'
      ? { pid, startToken: token }
      : undefined;
  } catch {
    return undefined;
  }
}
