import { readFile, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { Secret } from '../lib/secret.ts';
import { DataDirInUse, dataDirHolder } from './data-dir-lock.ts';
import { startEmbeddedPostgres, type EmbeddedPostgresOptions } from './embedded.ts';
import { embeddedPasswords } from './embedded-passwords.ts';
import { EMBEDDED } from './embedded-roles.ts';
import { isErrno, isPostgresOf } from './process-identity.ts';

const SECOND = 1000;
/** A server that has just been started recovers first; one that stops lets go. */
const PATIENCE_MS = 60 * SECOND;
const POLL_MS = 100;

export type ConnectedPostgres = {
  readonly ownerUrl: Secret;
  readonly serverUrl: Secret;
  /** False where it belongs to another process, which goes on using it. */
  readonly started: boolean;
  /** Stops it where it was started here. */
  stop(): Promise<void>;
};

/** Whether a data directory has a cluster in it, running or not. */
export async function hasEmbeddedCluster(dataDir: string): Promise<boolean> {
  try {
    await stat(join(resolve(dataDir), 'postgres', 'PG_VERSION'));
    return true;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return false;
    throw error;
  }
}

/**
 * The embedded Postgres of a data directory: that of the keyledger that runs on it, or else one started now. Throws as {@link startEmbeddedPostgres}
 * does, and where a living process has the directory but its Postgres doesn't come up.
 */
export async function connectEmbedded(options: EmbeddedPostgresOptions): Promise<ConnectedPostgres> {
  const dataDir = resolve(options.dataDir);
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    options.signal?.throwIfAborted();
    const holder = await dataDirHolder(dataDir);
    if (holder === undefined) {
      try {
        return { ...(await startEmbeddedPostgres(options)), started: true };
      } catch (error) {
        if (!(error instanceof DataDirInUse) || Date.now() > deadline) throw error;
      }
    } else {
      const running = await runningPostgres(dataDir);
      if (running !== undefined) return running;
      if (Date.now() > deadline) {
        throw new Error(
          `The data directory ${dataDir} is in use by process ${holder}, but its Postgres does not answer. Look at that process' log, or stop it.`,
        );
      }
    }
    await sleep(POLL_MS, undefined, { signal: options.signal });
  }
}

/** Reads where the running server listens from its postmaster.pid: line 1 the process, 4 the port, 8 the state (miscadmin.h). */
async function runningPostgres(dataDir: string): Promise<ConnectedPostgres | undefined> {
  const clusterDir = join(dataDir, 'postgres');
  const lines = (await readFile(join(clusterDir, 'postmaster.pid'), 'utf8').catch(() => '')).split('\n');
  const [pid, port] = [Number(lines[0]), Number(lines[3])];
  if (lines[7]?.trim() !== 'ready' || !Number.isInteger(port) || !(await isPostgresOf(pid, clusterDir))) return undefined;
  const passwords = await embeddedPasswords(dataDir, true);
  const url = (user: string, password: Secret) =>
    new Secret(`postgres://${user}:${password.reveal()}@127.0.0.1:${port}/${EMBEDDED.database}`);
  return {
    ownerUrl: url(EMBEDDED.owner, passwords.owner),
    serverUrl: url(EMBEDDED.app, passwords.app),
    started: false,
    stop: () => Promise.resolve(),
  };
}
