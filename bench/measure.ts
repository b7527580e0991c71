import type { Bench } from './bench.ts';
import { awaitQuiet, type Quiet } from './database/await-quiet.ts';
import type { LedgerDatabase } from './database/ledger-database.ts';
import type { LoadPlan, LoadResult } from './load/plan.ts';
import { cpuSeconds, cpuSecondsOfFamily } from './processes/cpu-time.ts';
import type { Subject } from './subjects/keyledger-server.ts';

export type Measured = LoadResult & {
  readonly perSecond: number;
  /** CPU microseconds a request, by process; null where the system does not tell. */
  readonly cpuUs: { readonly subject: number | null; readonly postgres: number | null; readonly generator: number | null };
  /** What was left to do when the load ended. */
  readonly afterwards: Quiet | null;
};

export type Slot = {
  readonly name: string;
  readonly subjects: readonly Subject[];
  readonly requests: readonly (readonly string[])[];
  readonly expect: string;
  readonly connections?: number;
  /** Not more requests a second than this. */
  readonly perSecond?: number;
  /** Its projector catches up after the slot, before the next one begins. */
  readonly ledger?: LedgerDatabase | undefined;
  /** Hears when the measured time begins and ends. */
  readonly onPhase?: (phase: 'measuring' | 'measured') => void;
  /** Each request once, without warm-up. */
  readonly once?: boolean;
  /** Hears of every answer, those before and after the measured time too. */
  readonly onAnswered?: (succeeded: number) => void;
};

const ONCE_LIMIT_MS = 300_000;

/** Loads subjects for a while. Throws where any answer was another than expected: a figure of failures is none. */
export async function measure(bench: Bench, slot: Slot, measureMs: number): Promise<Measured> {
  const plan: LoadPlan = {
    targets: slot.subjects.map(({ port }, index) => ({ port, requests: slot.requests[index % slot.requests.length] ?? [] })),
    connections: slot.connections ?? bench.options.connections,
    warmUpMs: slot.once === true ? 0 : Math.min(2_000, measureMs / 2),
    measureMs: slot.once === true ? ONCE_LIMIT_MS : measureMs,
    once: slot.once ?? false,
    perSecond: slot.perSecond,
    expect: slot.expect,
  };
  const marks: Promise<readonly (number | null)[]>[] = [];
  const result = await bench.generator.run(plan, (phase) => {
    marks.push(readCpu(bench, slot.subjects));
    slot.onPhase?.(phase);
  });
  if (result.failed + result.lost > 0) {
    throw new Error(
      `${slot.name}: ${result.failed} answers were no success and ${result.lost} did not come; the first one: ${result.sampleFailure ?? '(none)'}`,
    );
  }
  slot.onAnswered?.(result.succeeded);
  const [before, after] = await Promise.all(marks);
  const share = (index: number): number | null => {
    const [from, to] = [before?.[index], after?.[index]];
    return from == null || to == null ? null : ((to - from) * 1e6) / result.requests;
  };
  return {
    ...result,
    perSecond: result.requests / result.seconds,
    cpuUs: { subject: share(0), postgres: share(1), generator: share(2) },
    afterwards: slot.ledger === undefined ? null : await awaitQuiet(bench.postgres.admin, slot.ledger, bench.signal),
  };
}

async function readCpu({ postgres, generator }: Bench, subjects: readonly Subject[]): Promise<readonly (number | null)[]> {
  const own = await Promise.all(subjects.map(({ pid }) => cpuSeconds(pid)));
  const sum = own.includes(null) ? null : own.reduce<number>((total, seconds) => total + (seconds ?? 0), 0);
  return [sum, await cpuSecondsOfFamily(postgres.pid), await cpuSeconds(generator.pid)];
}
