import { spawn, type ChildProcess } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { isAlive } from '../../src/postgres/process-identity.ts';
import { COMPILE_CACHE } from '../support/compile-cache.ts';

export const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const MAIN = fileURLToPath(new URL('../../src/main.ts', import.meta.url));
const DEADLINE_MS = 60_000;

export type ServerProcess = {
  readonly pid: number;
  readonly stdout: () => string;
  readonly stderr: () => string;
  /** Resolves with the URL when it listens; rejects, with all it said, when it ends before. */
  listening(): Promise<string>;
  /** Resolves when it is gone, with its exit code, or the signal that ended it. */
  readonly ended: Promise<number | NodeJS.Signals | null>;
  /** To the process alone. */
  signal(name: NodeJS.Signals): void;
  /** To its whole process group, as a terminal does with Ctrl-C. */
  signalGroup(name: NodeJS.Signals): void;
};

/** Settings of the machine that runs the tests must not leak into the server under test. */
const INHERITED = ['PATH', 'HOME', 'TMPDIR', 'LANG'];

/** Starts the product as a process of its own, in a process group of its own, by this Node. `command`: what stands before it, such as setpriv. */
export function startProcess(env: NodeJS.ProcessEnv, command: readonly string[] = []): ServerProcess {
  return spawnServer([...command, process.execPath, MAIN], env);
}

/** Any command that ends up as a server. */
export function spawnServer(commandLine: readonly string[], env: NodeJS.ProcessEnv): ServerProcess {
  const [program = '', ...args] = commandLine;
  const inherited = Object.fromEntries(INHERITED.map((name) => [name, process.env[name]]));
  const child = spawn(program, args, {
    cwd: ROOT,
    env: { ...inherited, ...COMPILE_CACHE, HOST: '127.0.0.1', PORT: '0', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  const said = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) child[name].setEncoding('utf8').on('data', (text: string) => (said[name] += text));
  const ended = new Promise<number | NodeJS.Signals | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => resolve(code ?? signal));
  });
  ended.catch(() => undefined);
  return {
    pid: pidOf(child),
    stdout: () => said.stdout,
    stderr: () => said.stderr,
    async listening() {
      const deadline = Date.now() + DEADLINE_MS;
      for (;;) {
        const url = /^keyledger listens on (http:\S+)$/m.exec(said.stdout)?.[1];
        // The greeting is written at once, so that one line of it means all.
        if (url !== undefined) return url;
        if (child.exitCode !== null || child.signalCode !== null || Date.now() > deadline) {
          throw new Error(`the server does not listen: ${said.stdout}${said.stderr}`);
        }
        await sleep(20);
      }
    },
    ended,
    signal: (name) => void child.kill(name),
    signalGroup: (name) => void process.kill(-pidOf(child), name),
  };
}

function pidOf(child: ChildProcess): number {
  if (child.pid === undefined) throw new Error('the process did not start');
  return child.pid;
}

/** The process and all that descend from it, by the parent that /proc names. */
export async function processTree(pid: number): Promise<readonly number[]> {
  const parents = new Map<number, number>();
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    // The command's name, in parentheses, may hold anything; the parent's id is the second field after it.
    const stat = await readFile(`/proc/${name}/stat`, 'utf8').catch(() => '');
    const parent = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1];
    if (parent !== undefined) parents.set(Number(name), Number(parent));
  }
  const tree = [pid];
  for (const member of tree) for (const [child, parent] of parents) if (parent === member) tree.push(child);
  return tree;
}

/** Those of some processes that are still there. */
export async function survivors(pids: readonly number[]): Promise<readonly number[]> {
  const alive = await Promise.all(pids.map((pid) => isAlive(pid)));
  return pids.filter((_, index) => alive[index] === true);
}

/** `kill -9` for each. Some may be gone before their turn: what Postgres starts for a moment, and all that ends with its parent. */
export function killAll(pids: readonly number[]): void {
  for (const pid of pids) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  }
}

/** Stops whatever a test left running, its Postgres included. */
export async function endProcess(server: ServerProcess): Promise<void> {
  const tree = await processTree(server.pid);
  server.signal('SIGTERM');
  const late = sleep(20_000, 'late' as const, { ref: false });
  if ((await Promise.race([server.ended.catch(() => null), late])) !== 'late') return;
  killAll(tree.toReversed());
}

/** The postmaster of a data directory, while it runs. */
export async function postmasterOf(dataDir: string): Promise<number | undefined> {
  const text = await readFile(`${dataDir}/postgres/postmaster.pid`, 'utf8').catch(() => undefined);
  const pid = Number(text?.split('\n')[0]);
  return Number.isInteger(pid) && pid > 1 && (await isAlive(pid)) ? pid : undefined;
}
