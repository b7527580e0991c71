import { chmod, chown, mkdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';

import { Secret } from '../lib/secret.ts';
import { lockDataDir } from './data-dir-lock.ts';
import { type EmbeddedAccount, embeddedAccount } from './embedded-account.ts';
import { embeddedBinaries } from './embedded-binaries.ts';
import { embeddedPasswords } from './embedded-passwords.ts';
import { endOf, PostgresStartFailure, spawnAs, startPatiently } from './embedded-process.ts';
import { EMBEDDED, ensureEmbeddedRoles } from './embedded-roles.ts';
import { canConnect, mayHoldSocket, removeSockets } from './embedded-socket.ts';
import { endServerLeftBehind } from './embedded-takeover.ts';
import { isErrno } from './process-identity.ts';

export type EmbeddedPostgres = {
  /** Owns the tables; for migrations. */
  readonly ownerUrl: Secret;
  /** Logs in as `keyledger_app`; for serving. */
  readonly serverUrl: Secret;
  /** The cluster's superuser, on database `postgres`. */
  readonly adminUrl: Secret;
  readonly pid: number;
  /** Fast shutdown, awaited; then the data directory is free again. */
  stop(): Promise<void>;
};

export type EmbeddedPostgresOptions = {
  readonly dataDir: string;
  readonly onLog: (line: string) => void;
  /** The server died; nothing works any more. */
  readonly onUnexpectedExit?: ((reason: string) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
};

/**
 * A Postgres 18 of our own below `dataDir`, made at the first start. Throws an Error whose message says what to do
 * (directory not usable, in use by another keyledger, no binaries for this machine, no account to run as).
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  options.signal?.throwIfAborted();
  const dataDir = resolve(options.dataDir);
  await makeDataDir(dataDir);
  const lock = await lockDataDir(dataDir);
  try {
    const server = await startLocked(dataDir, options);
    return {
      ...server,
      stop: async () => {
        try {
          await server.stop();
        } finally {
          await lock.release();
        }
      },
    };
  } catch (error) {
    await lock.release();
    throw error;
  }
}

async function startLocked(dataDir: string, options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const clusterDir = join(dataDir, 'postgres');
  const clusterExists = await exists(join(clusterDir, 'PG_VERSION'));
  const binaries = await embeddedBinaries();
  const account = await embeddedAccount(dataDir, clusterDir, binaries);
  const passwords = await embeddedPasswords(dataDir, clusterExists);
  // The account has to pass through (it can't list the directory, and what lies in it is 0600 or its own).
  if (account.ids.uid !== undefined) await letPass(dataDir);
  if (clusterExists) {
    await endServerLeftBehind(clusterDir, options.onLog);
    await removeSockets(clusterDir);
  } else
    await makeCluster({ dataDir, clusterDir, initdb: binaries.initdb, account, password: passwords.superuser, signal: options.signal });

  const child = await startPatiently({
    postgres: binaries.postgres,
    clusterDir,
    socketDir: mayHoldSocket(clusterDir) ? clusterDir : null,
    account,
    onLog: options.onLog,
    onUnexpectedExit: options.onUnexpectedExit ?? (() => undefined),
    signal: options.signal,
  });
  let reached = false;
  try {
    await ensureEmbeddedRoles(child.port, passwords);
    reached = child.socketDir !== null && (await canConnect(child.socketDir, child.port));
    options.signal?.throwIfAborted();
  } catch (error) {
    await child.stop();
    throw error;
  }
  const url = (user: string, password: Secret, database: string) =>
    new Secret(`postgres://${user}:${password.reveal()}@127.0.0.1:${child.port}/${database}`);
  const nearUrl = (user: string, password: Secret) =>
    throughSocket(url(user, password, EMBEDDED.database), reached ? child.socketDir : null);
  return {
    ownerUrl: nearUrl(EMBEDDED.owner, passwords.owner),
    serverUrl: nearUrl(EMBEDDED.app, passwords.app),
    adminUrl: url(EMBEDDED.superuser, passwords.superuser, 'postgres'),
    pid: child.pid,
    stop: child.stop,
  };
}

/** In a URL of libpq and node-postgres the parameter goes before the name in front of it. */
function throughSocket(url: Secret, socketDir: string | null): Secret {
  return socketDir === null ? url : new Secret(`${url.reveal()}?host=${encodeURIComponent(socketDir)}`);
}

async function makeDataDir(dataDir: string): Promise<void> {
  try {
    await mkdir(dataDir, { recursive: true, mode: 0o700 });
    const probe = join(dataDir, `.writable-${process.pid}`);
    await writeFile(probe, '', { mode: 0o600 });
    await rm(probe);
  } catch (cause) {
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : 'error';
    throw new Error(
      `The data directory ${dataDir} can't be used (${code}). Set DATA_DIR to a directory that this user may write to, or DATABASE_URL to a Postgres of your own.`,
      {
        cause,
      },
    );
  }
}

async function letPass(directory: string): Promise<void> {
  const { mode } = await stat(directory);
  if ((mode & 0o001) === 0) await chmod(directory, (mode & 0o777) | 0o011);
}

type NewCluster = {
  readonly dataDir: string;
  readonly clusterDir: string;
  readonly initdb: string;
  readonly account: EmbeddedAccount;
  readonly password: Secret;
  readonly signal: AbortSignal | undefined;
};

/** initdb into a directory beside, renamed when it is whole: a start that was interrupted leaves nothing that looks like a cluster. */
async function makeCluster(wanted: NewCluster): Promise<void> {
  const newDir = `${wanted.clusterDir}.new`;
  const passwordFile = join(wanted.dataDir, '.initdb-password');
  const { uid, gid } = wanted.account.ids;
  await rm(newDir, { recursive: true, force: true });
  await rm(passwordFile, { force: true });
  await mkdir(newDir, { mode: 0o700 });
  await writeFile(passwordFile, wanted.password.reveal(), { mode: 0o600, flag: 'wx' });
  if (uid !== undefined && gid !== undefined) {
    await chown(newDir, uid, gid);
    await chown(passwordFile, uid, gid);
  }
  try {
    const args = [
      '-D',
      newDir,
      `--username=${EMBEDDED.superuser}`,
      `--pwfile=${passwordFile}`,
      '--auth=scram-sha-256',
      '--encoding=UTF8',
      '--locale-provider=builtin',
      '--builtin-locale=C.UTF-8',
      '--locale=C',
      '--no-instructions',
    ];
    const child = spawnAs(wanted.account, wanted.initdb, args, newDir);
    const abort = () => child.kill('SIGTERM');
    wanted.signal?.addEventListener('abort', abort, { once: true });
    let output = '';
    child.stderr?.on('data', (chunk: Buffer) => (output = (output + chunk.toString()).slice(-2_000)));
    const ended = await endOf(child);
    wanted.signal?.removeEventListener('abort', abort);
    wanted.signal?.throwIfAborted();
    if (ended !== 'exit code 0')
      throw new PostgresStartFailure(`The embedded Postgres could not make its data directory (${ended}).`, output.trim());
    await rename(newDir, wanted.clusterDir);
  } finally {
    await rm(passwordFile, { force: true });
    await rm(newDir, { recursive: true, force: true });
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return false;
    throw error;
  }
}
