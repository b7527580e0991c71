import { execFile } from 'node:child_process';
import { readFile, readlink, realpath } from 'node:fs/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Whether a process of this id exists and has not ended (a zombie has). */
export async function isAlive(pid: number): Promise<boolean> {
  try {
    process.kill(pid, 0);
  } catch (error) {
    // EPERM: it exists and belongs to someone else.
    if (!isErrno(error, 'EPERM')) return false;
  }
  if (process.platform !== 'linux') return true;
  return (await linuxStat(pid))?.state !== 'Z';
}

/** A text that no other process of the same id has: when it began. Undefined when there is no such process. */
export async function startToken(pid: number): Promise<string | undefined> {
  if (process.platform === 'linux') return (await linuxStat(pid))?.startTicks;
  try {
    const { stdout } = await run('ps', ['-o', 'lstart=', '-p', String(pid)], { timeout: 5_000 });
    return stdout.trim() || undefined;
  } catch {
    return undefined;
  }
}

/** Whether the process is a Postgres server of this data directory. One that can't be looked into is none of ours. */
export async function isPostgresOf(pid: number, clusterDir: string): Promise<boolean> {
  if (!(await isAlive(pid))) return false;
  if (process.platform === 'linux') {
    try {
      // Every process of a server works in its data directory.
      return (
        (await readlink(`/proc/${pid}/cwd`)) === (await realpath(clusterDir)) &&
        /postgres/.test(await readFile(`/proc/${pid}/cmdline`, 'utf8'))
      );
    } catch {
      return false;
    }
  }
  try {
    const { stdout } = await run('ps', ['-ww', '-o', 'command=', '-p', String(pid)], { timeout: 5_000 });
    return stdout.includes('postgres') && stdout.includes(clusterDir);
  } catch {
    return false;
  }
}

async function linuxStat(pid: number): Promise<{ state: string; startTicks: string } | undefined> {
  let text: string;
  try {
    text = await readFile(`/proc/${pid}/stat`, 'utf8');
  } catch {
    return undefined;
  }
  // proc_pid_stat(5): the name stands in parentheses and may hold anything; fields 3 and 22 are counted from its end.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const [state, startTicks] = [fields[0], fields[19]];
  return state === undefined || startTicks === undefined ? undefined : { state, startTicks };
}

export function isErrno(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}
