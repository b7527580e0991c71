import { readdir, readFile } from 'node:fs/promises';

/** Ticks a second of /proc/<pid>/stat; 100 on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100;

type Times = { readonly parent: number; readonly own: number; readonly reaped: number };

/** CPU seconds that a process has used so far; null where /proc does not tell. */
export async function cpuSeconds(pid: number): Promise<number | null> {
  return (await times(pid))?.own ?? null;
}

/** The same for a process and all its children, those that have ended included: Postgres with its backends and workers. */
export async function cpuSecondsOfFamily(pid: number): Promise<number | null> {
  const head = await times(pid);
  if (head === null) return null;
  const others = await Promise.all((await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map((name) => times(Number(name))));
  return others.reduce((sum, other) => sum + (other?.parent === pid ? other.own : 0), head.own + head.reaped);
}

/** proc(5): the command's name, in parentheses, may hold anything; state, parent, … follow it. */
async function times(pid: number): Promise<Times | null> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => null);
  if (stat === null) return null;
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const seconds = (first: number) => (Number(fields[first]) + Number(fields[first + 1])) / TICKS_PER_SECOND;
  return { parent: Number(fields[1]), own: seconds(11), reaped: seconds(13) };
}
