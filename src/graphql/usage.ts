import type { Kysely } from 'kysely';

import {
  subjectLastUsed,
  usageSeries,
  usageTotals,
  type UsagePoint,
  type UsageSubject,
  type UsageTotals,
} from '../projections/usage-queries.ts';
import type { Tables } from '../postgres/tables.ts';
import type { Whole } from '../projections/series-columns.ts';
import type { Builder } from './builder.ts';
import type { GraphqlDependencies } from './dependencies.ts';
import type { Enums } from './enums.ts';
import { addRequestLog } from './request-log.ts';
import type { TypeRefs } from './type-refs.ts';

/** Usage over a period, of which totals and series are read only where they are selected. */
export type UsageQuestion = {
  readonly subject: UsageSubject;
  readonly from: Date;
  readonly to: Date;
  readonly granularity: 'MINUTE' | 'HOUR' | 'DAY';
};

type RefusalCount = UsageTotals['refusals'][number];
export type UsageRefs = ReturnType<typeof addUsage>;

export function addUsage(builder: Builder, enums: Enums, types: TypeRefs) {
  const refusalCount = builder.objectRef<RefusalCount>('RefusalCount').implement({
    fields: (t) => ({
      code: t.field({ type: enums.verificationCode, resolve: ({ code }) => code }),
      count: t.float({ resolve: ({ count }) => Number(count) }),
    }),
  });
  const totals = builder.objectRef<UsageTotals>('UsageTotals').implement({
    description: `Sums over a period. ${EXACT}`,
    fields: (t) => ({
      requests: t.float({ resolve: (sum) => Number(sum.requests) }),
      succeeded: t.float({ description: 'Let through, and nothing says that they failed.', resolve: (sum) => Number(sum.succeeded) }),
      failed: t.float({ description: 'Let through, and answered with a status of 400 or above.', resolve: (sum) => Number(sum.failed) }),
      refused: t.float({ description: 'Not let through.', resolve: (sum) => Number(sum.refused) }),
      successRate: t.float({
        nullable: true,
        description: 'succeeded / requests; null without requests.',
        resolve: (sum) => rate(sum.succeeded, sum.requests),
      }),
      errorRate: t.float({
        nullable: true,
        description: 'failed / requests; null without requests.',
        resolve: (sum) => rate(sum.failed, sum.requests),
      }),
      cost: t.string({ description: COST, resolve: (sum) => decimalOfMicros(sum.costMicros) }),
      tokensIn: t.float({ resolve: (sum) => Number(sum.tokensIn) }),
      tokensOut: t.float({ resolve: (sum) => Number(sum.tokensOut) }),
      models: t.stringList({ resolve: (sum) => [...sum.models] }),
      refusals: t.field({ type: [refusalCount], description: 'The most frequent first.', resolve: (sum) => [...sum.refusals] }),
    }),
  });
  const point = builder.objectRef<UsagePoint>('UsagePoint').implement({
    description: `One step of a series. ${EXACT}`,
    fields: (t) => ({
      at: t.field({ type: 'DateTime', description: 'Where the minute, hour or day (UTC) begins.', resolve: ({ at }) => at }),
      requests: t.float({ resolve: (step) => Number(step.requests) }),
      failed: t.float({ resolve: (step) => Number(step.failed) }),
      refused: t.float({ resolve: (step) => Number(step.refused) }),
      cost: t.string({ description: COST, resolve: (step) => decimalOfMicros(step.costMicros) }),
      tokensIn: t.float({ resolve: (step) => Number(step.tokensIn) }),
      tokensOut: t.float({ resolve: (step) => Number(step.tokensOut) }),
    }),
  });
  const usage = builder.objectRef<UsageQuestion>('Usage').implement({
    description: 'Statistics, which follow the log within seconds.',
    fields: (t) => ({
      lastUsedAt: t.field({
        type: 'DateTime',
        nullable: true,
        description: 'When a key was last let through or reported as used, whatever the period; null where none was.',
        resolve: ({ subject }, _args, { deps }) => subjectLastUsed(statistics(deps), subject),
      }),
      totals: t.field({
        type: totals,
        resolve: ({ subject, from, to }, _args, { deps }) => usageTotals(statistics(deps), subject, { from, to }),
      }),
      series: t.field({
        type: [point],
        description: 'Oldest first, with zeros where nothing happened; 10,000 points at most.',
        resolve: async ({ subject, from, to, granularity }, _args, context, info) => {
          const points = await usageSeries(statistics(context.deps), subject, { from, to }, granularity);
          return context.writtenLists?.take(points, context, info) ?? [...points];
        },
      }),
    }),
  });
  return { usage, requests: addRequestLog(builder, enums, types) };
}

function statistics({ database, onStatisticsRead }: GraphqlDependencies): Kysely<Tables> {
  onStatisticsRead?.();
  return database.kysely;
}

const EXACT = 'Counts are whole numbers, exact up to 2^53.';
const COST = 'A decimal text with six places, exact, in the currency that costs are reported in.';

function rate(part: bigint, whole: bigint): number | null {
  return whole === 0n ? null : Number(part) / Number(whole);
}

/** Micros as a decimal text: money never becomes a fraction of a float. */
export function decimalOfMicros(micros: Whole): string {
  if (typeof micros === 'bigint') {
    const sign = micros < 0n ? '-' : '';
    const digits = (micros < 0n ? -micros : micros).toString().padStart(7, '0');
    return `${sign}${digits.slice(0, -6)}.${digits.slice(-6)}`;
  }
  if (micros < 0) return decimalOfMicros(BigInt(micros));
  const rest = micros % MICROS;
  return `${(micros - rest) / MICROS}.${String(rest).padStart(6, '0')}`;
}

const MICROS = 1_000_000;
