import type { Bench } from './bench.ts';
import { measure, type Measured, type Slot } from './measure.ts';

const WARM_UP_PASS_MS = 3_000;

/**
 * Subjects take turns, so that whatever else the machine does meanwhile falls on all of them: A B C, C B A, A B C … after one pass that does not count.
 * Answers each subject's slots, in the order of repetitions.
 */
export async function interleave<Name extends string>(
  bench: Bench,
  slots: Readonly<Record<Name, Slot>>,
): Promise<Readonly<Record<Name, readonly Measured[]>>> {
  const { options } = bench;
  const names = Object.keys(slots) as Name[];
  const measured = Object.fromEntries(names.map((name) => [name, []])) as unknown as Record<Name, Measured[]>;
  const measureMs = options.seconds * 1000;
  for (const name of names) await measure(bench, slots[name], Math.min(measureMs, WARM_UP_PASS_MS));
  for (let repetition = 0; repetition < options.repetitions; repetition++) {
    for (const name of repetition % 2 === 0 ? names : names.toReversed()) {
      const slot = await measure(bench, slots[name], measureMs);
      measured[name].push(slot);
      bench.progress(`  ${slots[name].name}: ${describe(slot)}`);
    }
  }
  return measured;
}

/** One line of figures. */
export function describe({ perSecond, p50Us, p99Us, cpuUs, afterwards }: Measured): string {
  const cpu = (Object.entries(cpuUs) as [string, number | null][])
    .map(([process, us]) => `${process} ${us === null ? '?' : us.toFixed(1)}`)
    .join(', ');
  const lag =
    afterwards === null ? '' : `; statistics ${afterwards.lagEvents} events behind, quiet after ${afterwards.seconds.toFixed(1)} s`;
  return `${Math.round(perSecond)}/s, p50 ${(p50Us / 1000).toFixed(2)} ms, p99 ${(p99Us / 1000).toFixed(2)} ms; CPU µs a request: ${cpu}${lag}`;
}

/** A figure of each repetition: of slots that were measured beside each other. */
export function ratios(ours: readonly Measured[], theirs: readonly Measured[], figure: (measured: Measured) => number): readonly number[] {
  return ours.map((slot, index) => {
    const other = theirs[index];
    if (other === undefined) throw new Error('a slot was measured without its counterpart');
    return figure(slot) / figure(other);
  });
}
