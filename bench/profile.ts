import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

/** What of a V8 profile (`--cpu-prof`) is needed here. */
type Profile = {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
  }[];
  readonly samples: readonly number[];
  readonly timeDeltas: readonly number[];
};

/** What runs for the first time when the first batch is decided or the first report recorded: what was before is the start of the server. */
const FIRST_WORK = new Set(['decideBatch', 'recordUsage']);

/** The functions in which most time was spent, themselves and without what they call: lines of `share  function  file:line`. Idle time and the start are left out. */
export async function topFunctions(directory: string, count: number): Promise<readonly string[]> {
  const spent = new Map<string, number>();
  let total = 0;
  for (const name of (await readdir(directory)).filter((file) => file.endsWith('.cpuprofile'))) {
    const profile = JSON.parse(await readFile(join(directory, name), 'utf8')) as Profile;
    const frames = new Map(profile.nodes.map(({ id, callFrame }) => [id, callFrame]));
    const first = profile.samples.findIndex((id) => FIRST_WORK.has(frames.get(id)?.functionName ?? ''));
    for (const [index, id] of profile.samples.entries()) {
      if (index < first) continue;
      const frame = frames.get(id);
      const deltaUs = profile.timeDeltas[index] ?? 0;
      if (frame === undefined || frame.functionName === '(idle)' || frame.functionName === '(program)') continue;
      const place = `${frame.functionName === '' ? '(anonymous)' : frame.functionName}  ${frame.url.replace(/^.*\/(?=(src|node_modules)\/)/, '')}:${frame.lineNumber + 1}`;
      spent.set(place, (spent.get(place) ?? 0) + deltaUs);
      total += deltaUs;
    }
  }
  return [...spent]
    .toSorted(([, a], [, b]) => b - a)
    .slice(0, count)
    .map(([place, us]) => `${((us / total) * 100).toFixed(1).padStart(5)} %  ${place}`);
}
