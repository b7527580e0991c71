import type pg from 'pg';
import type { QueryConfig } from 'pg';

import { codeNumber } from '../domain/usage.ts';
import { arrayOf, binaryTimestamp, INET, INT2, INT4, INT8, TEXT } from '../postgres/binary-array.ts';
import { typeParsers } from '../postgres/type-parsers.ts';
import type { Asked } from './asked.ts';
import {
  CALLER_FORBIDDEN,
  CALLER_UNAUTHENTICATED,
  OTHER_PEPPER,
  type Facts,
  type Judgement,
  type KeyRules,
  type Validity,
} from './facts.ts';
import type { Known } from './facts-cache.ts';
import { toStoredKey, type StoredKey, type StoredProfile } from './key-facts.ts';
import { traceOf } from './trace-of.ts';

/** A request that was judged, as the batch's statement takes it. */
export type Judged = {
  readonly asked: Asked;
  readonly facts: Facts;
  readonly judgement: Judgement;
};

/** What the SQL function `admit` (migration 0011) answers for a batch. */
export type AdmitRow = {
  readonly at: Date;
  /** Of the first request that was recorded; the others follow in their order. */
  readonly first_position: bigint | null;
  /** Null where the facts are those of now and each request's code is what was given. */
  readonly more: AdmitMore | null;

  /** Where one key alone was asked for: its number, and units used with the batch, in all and in its minute, day, week and month. Else NULL, and as below. */
  readonly lone_used: readonly number[] | null;
  // An element for each key that could be let through: units used with the batch. NULL where no key was, and where none was asked for by a limit.
  readonly consumed_keys: readonly (number | null)[] | null;
  readonly total_used: Units;
  readonly minute_used: Units;
  readonly day_used: Units;
  readonly week_used: Units;
  readonly month_used: Units;
};

export type AdmitMore = {
  /** Nothing was done: the facts are not current, or the judgements don't hold at this moment. */
  readonly stale: boolean;
  /** Whole numbers as texts. */
  readonly seen: string;
  readonly seenId: string | null;
  readonly revision: string;
  readonly changed: readonly string[] | null;

  // An element a request; null where all would be, and for codes and what is recorded where they are what was given.
  readonly codes: readonly number[] | null;
  readonly rules: readonly number[] | null;
  readonly recorded: readonly boolean[] | null;
  /** A stored answer, or when a refused request could pass. */
  readonly special: readonly (Special | null)[] | null;
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
  /** Up to where the facts were known to hold when they were found. */
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

/** The one statement of a batch; prepared once a connection. A column that brings nothing is NULL, which costs neither side to write and to read. */
export function admitBatch(batch: readonly Judged[], { known, second, newest, validity, blocking, wake }: AdmitOptions): QueryConfig {
  const factsOf = new Set<string>();
  const capped = new Set<number>();
  const balanced = new Set<number>();
  // Whether all facts were read for these very requests: then they need not be compared with the log.
  let complete = true;
  let keysNamed = true;
  let read: bigint | null = null;
  let unrecorded = false;
  for (const judged of batch) {
    const { facts, judgement } = judged;
    const { organization, verifier, readAt } = facts;
    if (organization?.capped === true) capped.add(organization.number);
    if (organization?.balanced === true) balanced.add(organization.number);
    if (readAt === null) {
      complete = false;
      if (organization !== null) factsOf.add(organization.id);
      if (verifier !== null && judgement.key === null) keysNamed = false;
    } else if (read === null || readAt < read) read = readAt;
    if (!isRecorded(judged)) unrecorded = true;
  }
  const ordered = keysAskedFor(batch);
  return {
    name: 'admit',
    text: 'SELECT * FROM admit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36)',
    types: answerTypes,
    values: [
      known.seen,
      known.seenId,
      known.revision,
      complete ? null : [...factsOf],
      keysNamed,
      read,
      validity.sinceUs === 0 ? null : binaryTimestamp(validity.sinceUs),
      validity.untilUs === Number.MAX_SAFE_INTEGER ? null : binaryTimestamp(validity.untilUs),
      arrayOf(INT4, batch, ({ facts }) => facts.organization?.number ?? null),
      arrayOf(INT4, batch, ({ judgement }) => judgement.key?.number ?? null),
      arrayOf(INT2, batch, ({ judgement }) => judgement.code),
      unrecorded ? batch.map(isRecorded) : null,
      arrayOf(INT4, batch, ({ asked }) => asked.request.cost),
      arrayOf(INET, batch, ({ asked }) => asked.request.ip),
      arrayOf(TEXT, batch, ({ asked }) => asked.request.endpoint),
      arrayOf(TEXT, batch, ({ facts, judgement }) =>
        judgement.code === VALID && facts.verifier?.current === false ? `outdated secret ${facts.verifier.lookupId}` : null,
      ),
      arrayOf(TEXT, batch, ({ asked }) => asked.request.requestId),
      arrayOf(TEXT, batch, ({ asked }) => (asked.request.requestId === null ? null : traceOf(asked.mac))),
      arrayOf(TEXT, batch, ({ asked, judgement: { key } }) =>
        asked.request.requestId === null || key === null ? null : JSON.stringify({ key: toStoredKey(key.told), profile: key.told.profile }),
      ),
      // What tells distinct bad secrets apart: of a keyed MAC, so that nobody can make up a thousand that look like one.
      arrayOf(INT4, batch, ({ asked, judgement }) =>
        judgement.code === INVALID_KEY && asked.request.ip !== null ? Number.parseInt(asked.mac.slice(0, 8), 16) | 0 : null,
      ),
      capped.size === 0 ? null : `{${[...capped].join()}}`,
      balanced.size === 0 ? null : `{${[...balanced].join()}}`,
      arrayOf(
        INT4,
        ordered.filter((key) => key.second < second),
        ({ number }) => number,
      ),
      arrayOf(INT4, ordered, ({ number }) => number),
      arrayOf(INT8, ordered, ({ asked }) => (asked === null ? null : BigInt(asked))),
      arrayOf(INT8, ordered, ({ ceiling }) => BigInt(ceiling)),
      arrayOf(INT8, ordered, ({ tokens }) => (tokens === null ? null : BigInt(tokens))),
      ordered.some(({ minute }) => minute),
      ordered.some(({ day }) => day),
      ordered.some(({ week }) => week),
      ordered.some(({ month }) => month),
      blocking.failures,
      blocking.within,
      blocking.blockFor,
      wake,
      newest,
    ],
  };
}

/** What a batch asks of one key. */
type AskedKey = {
  readonly number: number;
  /** The sum of the costs; null where one of them is 0. */
  asked: number | null;
  second: number;
  ceiling: number;
  tokens: number | null;
  minute: boolean;
  day: boolean;
  week: boolean;
  month: boolean;
};

/** The keys that may be let through, in ascending order. */
export function keysAskedFor(batch: readonly Judged[]): readonly AskedKey[] {
  const keys = new Map<number, AskedKey>();
  for (const { asked, judgement } of batch)
    if (judgement.code === VALID && judgement.key !== null) addAsked(keys, judgement.key, asked.request.cost);
  return [...keys.values()].sort((a, b) => a.number - b.number);
}

function addAsked(keys: Map<number, AskedKey>, { number, limits, windows }: KeyRules, cost: number): void {
  const known = keys.get(number);
  if (known === undefined) {
    keys.set(number, {
      number,
      asked: cost > 0 ? cost : null,
      second: windows.second,
      ceiling: windows.ceiling,
      tokens: limits.tokens,
      minute: limits.minute !== null,
      day: limits.day !== null,
      week: limits.week !== null,
      month: limits.month !== null,
    });
    return;
  }
  known.asked = cost > 0 && known.asked !== null ? known.asked + cost : null;
  // Facts that were read for one request may be older than those of another, but no younger than the request: the narrower ones are right for both, since where
  // they refuse the limits themselves are asked.
  known.ceiling = Math.min(known.ceiling, windows.ceiling);
  if (limits.tokens !== null) known.tokens = Math.min(known.tokens ?? limits.tokens, limits.tokens);
  known.minute ||= limits.minute !== null;
  known.day ||= limits.day !== null;
  known.week ||= limits.week !== null;
  known.month ||= limits.month !== null;
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
