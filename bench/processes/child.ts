import { spawn, type ChildProcess } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';

const STOP_MS = 20_000;
const KEPT_CHARACTERS = 4_000;

export type Child = {
  readonly process: ChildProcess;
  readonly pid: number;
  /** The end of what it wrote. */
  said(): string;
  /** Resolves when it is gone. */
  readonly ended: Promise<void>;
  /** Asks it to end, and ends it where it does not listen. */
  stop(): Promise<void>;
};

export type ChildOptions = {
  readonly args: readonly string[];
  readonly env: NodeJS.ProcessEnv;
  /** Opens an IPC channel. */
  readonly ipc?: boolean;
  readonly cwd?: string;
  readonly command?: string;
};

/** Only these settings of the caller's reach what is measured. */
const INHERITED = ['PATH', 'HOME', 'TMPDIR', 'LANG'];

/** Starts a Node process (or `command`) in a process group of its own, so that Ctrl-C in a terminal reaches it by way of the bench alone, in order. */
export function startChild(options: ChildOptions): Child {
  const inherited = Object.fromEntries(INHERITED.map((name) => [name, process.env[name]]));
  const child = spawn(options.command ?? process.execPath, options.args, {
    env: { ...inherited, ...options.env },
    stdio: ['ignore', 'pipe', 'pipe', ...(options.ipc === true ? (['ipc'] as const) : [])],
    detached: true,
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (text: string) => (said = (said + text).slice(-KEPT_CHARACTERS)));
  }
  const ended = new Promise<void>((resolve) => {
    child.once('error', (error) => {
      said += error.message;
      resolve();
    });
    child.once('close', () => resolve());
  });
  let stopping: Promise<void> | undefined;
  async function end(): Promise<void> {
    child.kill('SIGTERM');
    const timer = new AbortController();
    await Promise.race([ended, sleep(STOP_MS, undefined, { signal: timer.signal }).catch(() => undefined)]);
    timer.abort();
    child.kill('SIGKILL');
    await ended;
  }
  return { process: child, pid: child.pid ?? -1, said: () => said, ended, stop: () => (stopping ??= end()) };
}

/** Waits until `ask` gives something. Throws, with what the child said, when it has ended or the deadline has passed. */
export async function waitFor<T>(
  child: Child,
  what: string,
  deadlineMs: number,
  signal: AbortSignal,
  ask: () => T | undefined,
): Promise<T> {
  let gone = false;
  void child.ended.then(() => (gone = true));
  const deadline = performance.now() + deadlineMs;
  for (;;) {
    const found = ask();
    if (found !== undefined) return found;
    signal.throwIfAborted();
    if (gone || performance.now() > deadline) throw new Error(`${what} ${gone ? 'ended' : 'is not ready'}: ${child.said().trim()}`);
    await sleep(20);
  }
}
