import type pg from 'pg';
import type { QueryConfig } from 'pg';

import { codeNumber } from '../domain/usage.ts';
import { typeParsers } from '../postgres/type-parsers.ts';
import type { Asked } from './asked.ts';
import {
  CALLER_FORBIDDEN,
  CALLER_UNAUTHENTICATED,
  OTHER_PEPPER,
  type Facts,
  type Judgement,
  type KeyLimits,
  type KeyRules,
  type Validity,
} from './facts.ts';
import type { Known } from './facts-cache.ts';
import type { StoredKey, StoredProfile } from './key-facts.ts';
import { traceOf } from './trace-of.ts';

/** A request that was judged, as the batch's statement takes it. */
export type Judged = {
  readonly asked: Asked;
  readonly facts: Facts;
  readonly judgement: Judgement;
  /** Whether the facts were read for this very request, and so need not be compared with the log. */
  readonly fresh: boolean;
};

/** What the SQL function `admit` (migration 0011) answers for a batch. */
export type AdmitRow = {
  readonly at: Date;
  /** Nothing was done: the facts are not current, or the judgements don't hold at this moment. */
  readonly stale: boolean;
  readonly seen: bigint;
  readonly revision: bigint;
  readonly changed: readonly string[] | null;
  /** Of the first request that was recorded; the others follow in their order. */
  readonly first_position: bigint | null;

  // An element a request; NULL where all would be, and for codes and what is recorded where they are what was given.
  readonly codes: readonly number[] | null;
  readonly rules: readonly number[] | null;
  readonly recorded: readonly boolean[] | null;
  /** A stored answer, or when a refused request could pass. */
  readonly special: readonly (Special | null)[] | null;

  // An element for each key that could be let through: units used with the batch. NULL where no key was, and where none was asked for by a limit.
  readonly consumed_keys: readonly (number | null)[] | null;
  readonly total_used: Units;
  readonly minute_used: Units;
  readonly day_used: Units;
  readonly week_used: Units;
  readonly month_used: Units;
};

type Units = readonly (number | null)[] | null;

export type Special = { readonly position: string; readonly answer: StoredAnswer } | Refusing;

/** When a refused request could pass, and what its organization answers where a quota refuses. */
export type Refusing = { readonly retryAt: string | null; readonly quotaStatus: number };

/** What `usage_requests.answer` holds: enough to give the same answer again, whatever became of the key. */
export type StoredAnswer = {
  readonly at: string;
  readonly code: number;
  readonly rule: number | null;
  readonly outdated: boolean;
  readonly minuteLeft: number | null;
  readonly totalLeft: number | null;
  readonly dayLeft: number | null;
  readonly weekLeft: number | null;
  readonly monthLeft: number | null;
  readonly retryAt: string | null;
  readonly quotaStatus: number | null;
  readonly key: StoredKey;
  readonly profile: StoredProfile | null;
};

/** So many distinct bad secrets from one address within a time block it for another; Postgres intervals. */
export type AddressBlocking = { readonly failures: number; readonly within: string; readonly blockFor: string };
export const ADDRESS_BLOCKING: AddressBlocking = { failures: 20, within: '10 minutes', blockFor: '15 minutes' };

export type AdmitOptions = {
  /** Up to where the facts are known to hold. */
  readonly known: Known;
  /** The second since 1970 that the database's clock is taken to show. */
  readonly second: number;
  /** A position that is known to be taken. */
  readonly newest: bigint;
  /** When the judgements do. */
  readonly validity: Validity;
  readonly blocking: AddressBlocking;
  /** Whether the followers of the log are to be told. */
  readonly wake: boolean;
};

const VALID = codeNumber('VALID');
const INVALID_KEY = codeNumber('INVALID_KEY');
/** What is not written into the log: it tells nothing of a key, or nothing that is true. */
const UNRECORDED: ReadonlySet<number> = new Set([INVALID_KEY, CALLER_UNAUTHENTICATED, CALLER_FORBIDDEN, OTHER_PEPPER]);

/** Whether a request is written into the log. */
export function isRecorded({ asked, judgement: { code, key } }: Judged): boolean {
  return key !== null && asked.request.cost > 0 && !UNRECORDED.has(code);
}

/** The one statement of a batch; prepared once a connection. */
export function admitBatch(batch: readonly Judged[], { known, second, newest, validity, blocking, wake }: AdmitOptions): QueryConfig {
  const factsOf = new Set<string>();
  const capped = new Set<number>();
  const balanced = new Set<number>();
  let complete = true;
  let unrecorded = false;
  const keys = new Map<number, { readonly rules: KeyRules; asked: number | null }>();
  for (const judged of batch) {
    const { asked, facts, judgement, fresh } = judged;
    const { organization } = facts;
    if (organization !== null) {
      if (!fresh) factsOf.add(organization.id);
      if (organization.capped) capped.add(organization.number);
      if (organization.balanced) balanced.add(organization.number);
    }
    if (!fresh) complete = false;
    if (!isRecorded(judged)) unrecorded = true;
    if (judgement.code !== VALID || judgement.key === null) continue;
    const { cost } = asked.request;
    const known = keys.get(judgement.key.number);
    if (known === undefined) keys.set(judgement.key.number, { rules: judgement.key, asked: cost > 0 ? cost : null });
    else known.asked = cost > 0 && known.asked !== null ? known.asked + cost : null;
  }
  const has = (limit: keyof KeyLimits): boolean => ordered.some(({ rules }) => rules.limits[limit] !== null);
  const ordered = [...keys.values()].sort((a, b) => a.rules.number - b.rules.number);
  return {
    name: 'admit',
    text: 'SELECT * FROM admit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32)',
    types: answerTypes,
    values: [
      known.seen,
      known.revision,
      complete ? null : [...factsOf],
      validity.sinceUs,
      validity.untilUs,
      numbers(batch, ({ facts }) => facts.organization?.number ?? null),
      numbers(batch, ({ judgement }) => judgement.key?.number ?? null),
      numbers(batch, ({ judgement }) => judgement.code),
      unrecorded ? batch.map(isRecorded) : null,
      numbers(batch, ({ asked }) => asked.request.cost),
      texts(batch, ({ asked }) => asked.request.ip),
      texts(batch, ({ asked }) => asked.request.endpoint),
      texts(batch, ({ facts, judgement }) =>
        judgement.code === VALID && facts.verifier?.current === false ? `outdated secret ${facts.verifier.lookupId}` : null,
      ),
      texts(batch, ({ asked }) => asked.request.requestId),
      texts(batch, ({ asked }) => (asked.request.requestId === null ? null : traceOf(asked.mac))),
      // What tells distinct bad secrets apart: of a keyed MAC, so that nobody can make up a thousand that look like one.
      numbers(batch, ({ asked, judgement }) =>
        judgement.code === INVALID_KEY && asked.request.ip !== null ? Number.parseInt(asked.mac.slice(0, 8), 16) | 0 : null,
      ),
      capped.size === 0 ? null : `{${[...capped].join()}}`,
      balanced.size === 0 ? null : `{${[...balanced].join()}}`,
      numbers(
        ordered.filter(({ rules }) => rules.windows.second < second),
        ({ rules }) => rules.number,
      ),
      numbers(ordered, ({ rules }) => rules.number),
      numbers(ordered, ({ asked }) => asked, true),
      numbers(ordered, ({ rules }) => rules.windows.ceiling),
      numbers(ordered, ({ rules }) => rules.limits.tokens),
      has('minute'),
      has('day'),
      has('week'),
      has('month'),
      blocking.failures,
      blocking.within,
      blocking.blockFor,
      wake,
      newest,
    ],
  };
}

/** The text form of an array of what each brings; null where none brings anything, which costs neither side to write and to read. */
function numbers<Item>(items: readonly Item[], valueOf: (item: Item) => number | null, always = false): string | null {
  let text = '{';
  let any = always;
  for (const item of items) {
    const value = valueOf(item);
    if (value !== null) any = true;
    text += text.length === 1 ? (value ?? 'NULL') : `,${value ?? 'NULL'}`;
  }
  return any ? `${text}}` : null;
}

function texts<Item>(items: readonly Item[], valueOf: (item: Item) => string | null): readonly (string | null)[] | null {
  const values = items.map(valueOf);
  return values.some((value) => value !== null) ? values : null;
}

const INT4_ARRAY_OID = 1007;
const INT8_ARRAY_OID = 1016;

/** Units and numbers of keys as numbers: those of a million requests a second would take three hundred years to be too many. */
const answerTypes: pg.CustomTypesConfig = {
  getTypeParser: ((oid: number, format?: 'text' | 'binary') =>
    (oid === INT4_ARRAY_OID || oid === INT8_ARRAY_OID) && format !== 'binary'
      ? parseNumbers
      : (typeParsers.getTypeParser as (oid: number, format?: string) => unknown)(oid, format)) as pg.CustomTypesConfig['getTypeParser'],
};

function parseNumbers(text: string): (number | null)[] {
  return text === '{}'
    ? []
    : text
        .slice(1, -1)
        .split(',')
        .map((item) => (item === 'NULL' ? null : Number(item)));
}
