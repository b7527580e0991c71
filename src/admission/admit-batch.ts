import type { QueryConfig } from 'pg';

import { permissionsOf, ROLES } from '../domain/permissions.ts';
import type { VerifyCaller, VerifyRequest } from './admission.ts';
import type { StoredKey, StoredProfile } from './key-facts.ts';

/** A request as the batch's statement takes it. */
export type Asked = {
  readonly caller: VerifyCaller;
  readonly request: VerifyRequest;
  /** Empty where the presented text is no key of ours. */
  readonly lookupId: string;
  /** SHA-256 of a text in a form that is not ours, by which an imported secret is found; null for keys of ours and for what can be no key. */
  readonly foreignHash: Buffer | null;
  /** The presented secret's MAC under the current pepper. */
  readonly mac: Buffer;
};

/** What the SQL function `admit` (migration 0004) answers for a batch. */
export type AdmitRow = {
  readonly at: Date;
  /** Of the first request that was recorded; the others follow in their order. */
  readonly first_position: bigint | null;

  // An element a request; NULL where all would be.
  readonly codes: readonly number[];
  readonly rules: readonly number[] | null;
  readonly recorded: readonly boolean[];
  /** The number of the key that was found; null unless the right secret was presented. */
  readonly keys: readonly (number | null)[];
  readonly versions: readonly (number | null)[];
  /** Of its profile, where it has one. */
  readonly profile_versions: readonly (number | null)[] | null;
  readonly outdated: readonly (boolean | null)[] | null;
  /** A stored answer, the other pepper's verifier, or when a refused request could pass. */
  readonly special: readonly (Special | null)[] | null;

  // An element for each key that was asked for: units left after the batch; null where the key has no such limit. NULL where no key was.
  readonly consumed_keys: readonly number[] | null;
  readonly minute_left: readonly (bigint | null)[] | null;
  readonly total_left: readonly (bigint | null)[] | null;
  readonly day_left: readonly (bigint | null)[] | null;
  readonly week_left: readonly (bigint | null)[] | null;
  readonly month_left: readonly (bigint | null)[] | null;
};

export type Special =
  | { readonly position: string; readonly answer: StoredAnswer }
  | { readonly pepperId: string; readonly argon2: string }
  | Refusing;

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

/** Codes of `admit` that are no outcome of a verification. */
export const CALLER_UNAUTHENTICATED = 100;
export const CALLER_FORBIDDEN = 101;
export const OTHER_PEPPER = 102;
export const REQUEST_ID_TAKEN = 103;

const VERIFYING_ROLES = ROLES.filter((role) => permissionsOf(role).includes('keys:verify'));

/** So many distinct bad secrets from one address within a time block it for another; Postgres intervals. */
export type AddressBlocking = { readonly failures: number; readonly within: string; readonly blockFor: string };
export const ADDRESS_BLOCKING: AddressBlocking = { failures: 20, within: '10 minutes', blockFor: '15 minutes' };

export type AdmitOptions = {
  /** The current pepper's. */
  readonly pepperId: string;
  readonly blocking: AddressBlocking;
  /** Whether the followers of the log are to be told. */
  readonly wake: boolean;
};

/** The one statement of a batch; prepared once a connection. */
export function admitBatch(batch: readonly Asked[], options: AdmitOptions): QueryConfig {
  const { pepperId, blocking, wake } = options;
  const callers = new Map<string, { readonly index: number; readonly caller: VerifyCaller }>();
  const callerOf = batch.map(({ caller }) => {
    const name = caller.kind === 'token' ? caller.tokenHash.toString('latin1') : caller.organizationId;
    const known = callers.get(name);
    if (known !== undefined) return known.index;
    callers.set(name, { index: callers.size + 1, caller });
    return callers.size;
  });
  const foreign = batch.some((asked) => asked.foreignHash !== null);
  const distinct = [...callers.values()].map(({ caller }) => caller);
  return {
    name: foreign ? 'admit-imported' : 'admit',
    text: `SELECT * FROM admit($1, $2, $3, $4, $5, ${foreign ? 'imported_lookup_ids($1, $2, $5, $6, $19)' : '$6'}, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)`,
    values: [
      distinct.map((caller) => (caller.kind === 'token' ? caller.tokenHash : null)),
      distinct.map((caller) => (caller.kind === 'organization' ? caller.organizationId : null)),
      VERIFYING_ROLES,
      pepperId,
      callerOf,
      batch.map((asked) => asked.lookupId),
      // One value instead of an array: it travels as the bytes that it is, and not as hexadecimal digits.
      Buffer.concat(batch.map((asked) => asked.mac)),
      batch.map((asked) => asked.request.cost),
      column(batch, ({ request }) => (request.permissions.length === 0 ? null : request.permissions.join(' '))),
      column(batch, ({ request }) => request.environment),
      column(batch, ({ request }) => request.ip),
      column(batch, ({ request }) => request.origin),
      column(batch, ({ request }) => request.endpoint),
      column(batch, ({ request }) => request.requestId),
      blocking.failures,
      blocking.within,
      blocking.blockFor,
      wake,
      ...(foreign ? [batch.map((asked) => asked.foreignHash)] : []),
    ],
  };
}

/** An array of what each request brought; null where none brought anything, which costs neither side to write and to read. */
function column(batch: readonly Asked[], valueOf: (asked: Asked) => string | null): readonly (string | null)[] | null {
  const values = batch.map(valueOf);
  return values.some((value) => value !== null) ? values : null;
}
