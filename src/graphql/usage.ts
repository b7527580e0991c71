import {
  requestLog,
  subjectLastUsed,
  usageSeries,
  usageTotals,
  type RequestLogEntry,
  type UsagePoint,
  type UsageSubject,
  type UsageTotals,
} from '../projections/usage-queries.ts';
import type { Builder } from './builder.ts';
import { badUserInput } from './client-error.ts';
import { actorOf, type GraphqlContext } from './context.ts';
import type { Enums } from './enums.ts';
import { loadKeys, seesAllKeys, type KeyRow } from './key-reading.ts';
import { pageOf, pageSizeOf, type Page } from './paging.ts';
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

/** A request that the caller may see, with its key. */
export type LoggedRequest = { readonly entry: RequestLogEntry; readonly key: KeyRow };

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
        resolve: ({ subject }, _args, { deps }) => subjectLastUsed(deps.database.kysely, subject),
      }),
      totals: t.field({
        type: totals,
        resolve: ({ subject, from, to }, _args, { deps }) => usageTotals(deps.database.kysely, subject, { from, to }),
      }),
      series: t.field({
        type: [point],
        description: 'Oldest first, with zeros where nothing happened; 10,000 points at most.',
        resolve: async ({ subject, from, to, granularity }, _args, { deps }) => [
          ...(await usageSeries(deps.database.kysely, subject, { from, to }, granularity)),
        ],
      }),
    }),
  });
  const logged = builder.objectRef<LoggedRequest>('RequestLogEntry').implement({
    description: 'One request, with what was reported about it afterwards.',
    fields: (t) => ({
      position: t.field({ type: 'Position', resolve: ({ entry }) => entry.position }),
      requestId: t.string({ resolve: ({ entry }) => entry.requestId }),
      apiKey: t.field({ type: types.apiKey, resolve: ({ key }) => key }),
      at: t.field({ type: 'DateTime', resolve: ({ entry }) => entry.at }),
      endpoint: t.string({
        nullable: true,
        description: 'Method and path, as the gateway gave them.',
        resolve: ({ entry }) => entry.endpoint,
      }),
      status: t.int({
        nullable: true,
        description: 'What the end client was answered, where that is known.',
        resolve: ({ entry }) => entry.status,
      }),
      durationMs: t.int({ nullable: true, description: 'To the first byte.', resolve: ({ entry }) => entry.durationMs }),
      ip: t.string({ nullable: true, description: "The end client's address.", resolve: ({ entry }) => entry.ip }),
      credits: t.int({ resolve: ({ entry }) => entry.credits }),
      code: t.field({ type: enums.verificationCode, resolve: ({ entry }) => entry.code }),
    }),
  });
  const requestLogConnection = builder.connectionObject({ type: logged, name: 'RequestLogConnection' });
  return { usage, requestLogConnection };
}

const EXACT = 'Counts are whole numbers, exact up to 2^53.';
const COST = 'A decimal text with six places, exact, in the currency that costs are reported in.';

function rate(part: bigint, whole: bigint): number | null {
  return whole === 0n ? null : Number(part) / Number(whole);
}

/** Micros as a decimal text: money never becomes a float. */
export function decimalOfMicros(micros: bigint): string {
  const sign = micros < 0n ? '-' : '';
  const digits = (micros < 0n ? -micros : micros).toString().padStart(7, '0');
  return `${sign}${digits.slice(0, -6)}.${digits.slice(-6)}`;
}

/** Pages of the log are read until so many requests that the caller may see are found, but no more often than this. */
const MAX_READS = 10;

/** A page of the request log, newest first. A caller who does not see all keys gets the requests of those that it sees. */
export async function readRequestLog(
  context: GraphqlContext,
  keyNumber: number | undefined,
  args: { readonly first?: number | null | undefined; readonly after?: string | null | undefined },
): Promise<Page<LoggedRequest>> {
  const db = context.deps.database.kysely;
  const actor = actorOf(context);
  const size = pageSizeOf(args.first);
  let before = args.after == null ? undefined : positionOf(args.after);
  const subject = { organizationId: actor.organizationId, ...(keyNumber === undefined ? {} : { keyNumber }) };
  const found: LoggedRequest[] = [];
  const limit = seesAllKeys(actor) || keyNumber !== undefined ? size + 1 : 500;
  for (let reads = 0; reads < MAX_READS && found.length <= size; reads++) {
    const entries = await requestLog(db, subject, { limit, ...(before === undefined ? {} : { before }) });
    const ids = [...new Set(entries.map((entry) => entry.keyId))];
    const keys = new Map((await loadKeys(db, actor, ids)).flatMap((key) => (key === null ? [] : [[key.id, key] as const])));
    for (const entry of entries) {
      const key = keys.get(entry.keyId);
      if (key !== undefined) found.push({ entry, key });
    }
    if (entries.length < limit) break;
    before = entries.at(-1)?.position;
  }
  return pageOf(found, size, ({ entry }) => entry.position.toString(), args.after != null);
}

/** A position that was given as a cursor. */
export function positionOf(cursor: string): bigint {
  if (!/^(?:0|[1-9]\d{0,17})$/.test(cursor)) throw badUserInput("'after' is no cursor of this list.");
  return BigInt(cursor);
}
