import { execFile } from 'node:child_process';
import { stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { promisify } from 'node:util';

import type { EmbeddedBinaries } from './embedded-binaries.ts';

const run = promisify(execFile);

/** As whom Postgres runs, and what stands in front of its command line for that. */
export type EmbeddedAccount = {
  readonly ids: { readonly uid?: number; readonly gid?: number };
  readonly prefix: readonly string[];
};

const OURSELVES: EmbeddedAccount = { ids: {}, prefix: [] };
/**
 * A user namespace in which root is called nobody. Postgres refuses only the number 0; towards files the process keeps root's ownership
 * (without root's capabilities), so it reaches what lies below /root.
 */
const RENAMED_ROOT: EmbeddedAccount = { ids: {}, prefix: ['unshare', '--user', '--map-user=65534', '--map-group=65534', '--'] };

/**
 * Postgres refuses to run as root. An ordinary user runs it as itself. Root runs it
 * - as whoever owns the cluster, when there is one;
 * - else as `postgres` or `nobody`, when that account can reach the binaries and the data directory's place;
 * - else as itself under another number, in a user namespace.
 */
export async function embeddedAccount(dataDir: string, clusterDir: string, binaries: EmbeddedBinaries): Promise<EmbeddedAccount> {
  if (process.getuid?.() !== 0) return OURSELVES;
  const cluster = await stat(clusterDir).catch(() => undefined);
  if (cluster !== undefined && cluster.uid !== 0) return asAccount({ uid: cluster.uid, gid: cluster.gid });
  if (cluster === undefined) {
    for (const name of ['postgres', 'nobody']) {
      const ids = await accountIds(name);
      if (ids !== undefined && (await canReach(binaries.postgres)) && (await canReach(resolve(dataDir)))) return asAccount(ids);
    }
  }
  try {
    await run(RENAMED_ROOT.prefix[0] ?? '', [...RENAMED_ROOT.prefix.slice(1), binaries.postgres, '--version'], { timeout: 10_000 });
    return RENAMED_ROOT;
  } catch (cause) {
    throw new Error(
      `Postgres does not run as root, and no other account can reach ${binaries.postgres} and ${dataDir} here. Start keyledger as an ordinary user, or move it and DATA_DIR to a place that every account may enter (not below /root), or set DATABASE_URL.`,
      { cause },
    );
  }
}

function asAccount(ids: { uid: number; gid: number }): EmbeddedAccount {
  return { ids, prefix: [] };
}

async function accountIds(name: string): Promise<{ uid: number; gid: number } | undefined> {
  try {
    const [uid, gid] = await Promise.all(
      ['-u', '-g'].map(async (flag) => Number((await run('id', [flag, name], { timeout: 5_000 })).stdout)),
    );
    return Number.isInteger(uid) && Number.isInteger(gid) && uid !== undefined && gid !== undefined && uid > 0 ? { uid, gid } : undefined;
  } catch {
    return undefined;
  }
}

/** Whether every directory above the path may be passed by anybody. */
async function canReach(path: string): Promise<boolean> {
  for (let directory = dirname(path); ; directory = dirname(directory)) {
    const { mode } = await stat(directory);
    if ((mode & 0o001) === 0) return false;
    if (directory === dirname(directory)) return true;
  }
}
