import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import type { EmbeddedAccount } from './embedded-account.ts';
import { isSocketFailure } from './embedded-socket.ts';
import { isErrno } from './process-identity.ts';

const SECOND = 1_000;
/** Crash recovery of a full WAL is part of a start. */
const START_DEADLINE_MS = 300 * SECOND;
const FAST_SHUTDOWN_MS = 30 * SECOND;
const IMMEDIATE_SHUTDOWN_MS = 10 * SECOND;
const POLL_MS = 20;
/** What is in the way of a start has this time to pass. */
const RETRY_MS = 30_000;
const KEPT_LINES = 20;

/** What an operator would write in postgresql.conf. Given with each start, so that a new version brings its own. */
const SETTINGS = {
  listen_addresses: '127.0.0.1',
  unix_socket_permissions: '0700',
  password_encryption: 'scram-sha-256',
  max_connections: '200',
  shared_buffers: '256MB',
  max_wal_size: '2GB',
  min_wal_size: '160MB',
  checkpoint_timeout: '15min',
  fsync: 'on',
  full_page_writes: 'on',
  synchronous_commit: 'on',
  // A commit writes a page or two: one call that writes and waits for the disk instead of two (1 to 5 % more verifications a second).
  wal_sync_method: 'open_datasync',
  wal_compression: 'on',
  autovacuum_naptime: '15s',
  timezone: 'UTC',
  log_timezone: 'UTC',
  log_line_prefix: '',
  log_checkpoints: 'off',
  // Their text may hold what must not be in a log; the error itself is enough here.
  log_min_error_statement: 'panic',
  log_min_messages: 'warning',
} as const;

export type EmbeddedProcess = {
  readonly pid: number;
  readonly port: number;
  /** Where its Unix socket lies; null for none. */
  readonly socketDir: string | null;
  /** Fast shutdown: sessions end, data is written, the process is gone. Calling it again gives the same promise. */
  stop(): Promise<void>;
};

export type EmbeddedProcessOptions = {
  readonly postgres: string;
  readonly clusterDir: string;
  /** Where it shall have a Unix socket besides; null for nowhere. */
  readonly socketDir: string | null;
  readonly account: EmbeddedAccount;
  readonly onLog: (line: string) => void;
  /** The server ended though nobody here stopped it. */
  readonly onUnexpectedExit: (reason: string) => void;
  readonly signal?: AbortSignal | undefined;
};

/** The server did not come up; `output` is the end of what it said. */
export class PostgresStartFailure extends Error {
  override readonly name = 'PostgresStartFailure';
  readonly output: string;
  constructor(message: string, output: string) {
    super(output === '' ? message : `${message} It said: ${output}`);
    this.output = output;
  }
}

/** Starts `postgres` as a direct child on a free loopback port and resolves when it takes connections. */
export async function startPostgresProcess(options: EmbeddedProcessOptions): Promise<EmbeddedProcess> {
  const port = await freePort();
  const args = [
    '-D',
    options.clusterDir,
    '-p',
    String(port),
    '-c',
    `unix_socket_directories=${options.socketDir ?? ''}`,
    ...Object.entries(SETTINGS).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
  ];
  const child = spawnAs(options.account, options.postgres, args, options.clusterDir);
  const ended = endOf(child);
  const lastLines: string[] = [];
  if (child.stderr !== null) {
    createInterface({ input: child.stderr }).on('line', (line) => {
      lastLines.push(line);
      if (lastLines.length > KEPT_LINES) lastLines.shift();
      options.onLog(line);
    });
  }
  let wanted = true;
  let reason: string | undefined;
  let ready = false;
  void ended.then((text) => {
    reason = text;
    if (wanted && ready) options.onUnexpectedExit(text);
  });
  let stopping: Promise<void> | undefined;
  const stop = () => {
    wanted = false;
    return (stopping ??= stopChild(child, ended, options.clusterDir));
  };

  const deadline = Date.now() + START_DEADLINE_MS;
  while (!(await isReady(options.clusterDir, child.pid))) {
    if (reason !== undefined) throw new PostgresStartFailure(`The embedded Postgres did not start (${reason}).`, lastLines.join(' | '));
    if (options.signal?.aborted === true || Date.now() > deadline) {
      await stop();
      options.signal?.throwIfAborted();
      throw new PostgresStartFailure(
        `The embedded Postgres was not ready after ${START_DEADLINE_MS / SECOND} seconds.`,
        lastLines.join(' | '),
      );
    }
    await sleep(POLL_MS);
  }
  if (options.signal?.aborted === true) {
    await stop();
    options.signal.throwIfAborted();
  }
  ready = true;
  if (child.pid === undefined) throw new PostgresStartFailure('The embedded Postgres has no process id.', '');
  return { pid: child.pid, port, socketDir: options.socketDir, stop };
}

/**
 * As {@link startPostgresProcess}, but backends outlive a killed server for a moment and hold its shared memory, and a port chosen as free may be taken by now: both pass. And where there can't be a Unix
 * socket it does without.
 */
export async function startPatiently(options: EmbeddedProcessOptions): Promise<EmbeddedProcess> {
  const deadline = Date.now() + RETRY_MS;
  for (;;) {
    try {
      return await startPostgresProcess(options);
    } catch (error) {
      if (options.socketDir !== null && error instanceof PostgresStartFailure && isSocketFailure(error.output)) {
        options.onLog(`the embedded Postgres gets no Unix socket in ${options.socketDir} and is reached over loopback`);
        return startPatiently({ ...options, socketDir: null });
      }
      const passes = error instanceof PostgresStartFailure && /still in use|could not bind|could not create any TCP/.test(error.output);
      if (!passes || Date.now() > deadline) throw error;
      await sleep(200);
    }
  }
}

/** A command under the account, without the caller's `PG*` variables and locale, in a process group of its own: Ctrl-C in a terminal is for keyledger, which stops its server last. */
export function spawnAs(account: EmbeddedAccount, command: string, args: readonly string[], cwd: string): ChildProcess {
  const [program = command, ...rest] = [...account.prefix, command, ...args];
  return spawn(program, rest, {
    ...account.ids,
    cwd,
    env: { PATH: process.env['PATH'] ?? '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' },
    stdio: ['ignore', 'ignore', 'pipe'],
    detached: true,
  });
}

/** Resolves with why, never rejects. */
export function endOf(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('close', (code, signal) => resolve(signal === null ? `exit code ${String(code)}` : `signal ${signal}`));
  });
}

async function stopChild(child: ChildProcess, ended: Promise<string>, clusterDir: string): Promise<void> {
  for (const [signal, patienceMs] of [
    ['SIGINT', FAST_SHUTDOWN_MS],
    ['SIGQUIT', IMMEDIATE_SHUTDOWN_MS],
  ] as const) {
    child.kill(signal);
    const timer = new AbortController();
    const late = sleep(patienceMs, 'late', { signal: timer.signal }).catch(() => 'late');
    const outcome = await Promise.race([ended, late]);
    timer.abort();
    if (outcome !== 'late') return;
  }
  throw new Error(`The embedded Postgres (process ${String(child.pid)}, ${clusterDir}) does not stop.`);
}

/** The server writes its state as the eighth line of postmaster.pid (miscadmin.h, LOCK_FILE_LINE_PM_STATUS). */
async function isReady(clusterDir: string, pid: number | undefined): Promise<boolean> {
  try {
    const lines = (await readFile(join(clusterDir, 'postmaster.pid'), 'utf8')).split('\n');
    return Number(lines[0]) === pid && lines[7]?.trim() === 'ready';
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return false;
    throw error;
  }
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() => (typeof address === 'object' && address !== null ? resolve(address.port) : reject(new Error('no free port'))));
    });
  });
}
