/** The plans that auto_explain wrote, by statement: lines of `total ms  calls  median ms  statement`, the dearest first. A function's statement holds those inside it. */
export function topStatements(log: readonly string[], count: number): readonly string[] {
  const durations = new Map<string, number[]>();
  let durationMs: number | undefined;
  for (const line of log) {
    durationMs = durationOf(line) ?? durationMs;
    const statement = /^\s*Query Text: (.+)$/.exec(line)?.[1];
    if (statement === undefined || durationMs === undefined) continue;
    const name = statement.replaceAll(/\s+/g, ' ').trim().slice(0, 110);
    durations.set(name, [...(durations.get(name) ?? []), durationMs]);
    durationMs = undefined;
  }
  return [...durations]
    .map(([name, each]) => ({ name, each: each.toSorted((a, b) => a - b), totalMs: each.reduce((sum, ms) => sum + ms, 0) }))
    .toSorted((a, b) => b.totalMs - a.totalMs)
    .slice(0, count)
    .map(({ name, each, totalMs }) => {
      const medianMs = each[Math.floor(each.length / 2)] ?? 0;
      return `${totalMs.toFixed(1).padStart(9)} ms ${String(each.length).padStart(6)} × ${medianMs.toFixed(3).padStart(8)} ms  ${name}`;
    });
}

function durationOf(line: string): number | undefined {
  const found = /duration: ([\d.]+) ms {2}plan:/.exec(line)?.[1];
  return found === undefined ? undefined : Number(found);
}
