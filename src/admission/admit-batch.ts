import type { QueryConfig } from 'pg';

import { permissionsOf, ROLES } from '../domain/permissions.ts';
import type { VerifyCaller, VerifyRequest } from './admission.ts';
import type { StoredKey } from './key-facts.ts';

/** A request as the batch's statement takes it. */
export type Asked = {
  readonly caller: VerifyCaller;
  readonly request: VerifyRequest;
  /** Empty where the presented text is no key of ours. */
  readonly lookupId: string;
  /** The presented secret's MAC under the current pepper. */
  readonly mac: Buffer;
};

/** What the SQL function `admit` (migration 0004) answers for a batch: one row of arrays, an element a request. */
export type AdmitRow = {
  readonly at: Date;
  readonly codes: readonly number[];
  readonly rules: readonly number[];
  readonly positions: readonly (bigint | null)[];
  /** The number and version of the key that was found, whether or not the secret was right. */
  readonly keys: readonly (number | null)[];
  readonly versions: readonly (number | null)[];
  readonly outdated: readonly (boolean | null)[];
  readonly minute_left: readonly (bigint | null)[];
  readonly token_left: readonly (bigint | null)[];
  readonly total_left: readonly (bigint | null)[];
  readonly day_left: readonly (bigint | null)[];
  readonly week_left: readonly (bigint | null)[];
  readonly month_left: readonly (bigint | null)[];
  /** A stored answer, the other pepper's verifier, or when a refused request could pass. */
  readonly special: readonly (Special | null)[];
};

export type Special = StoredAnswer | { readonly pepperId: string; readonly argon2: string } | Refusing;

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
  readonly quotaStatus: number;
  readonly key: StoredKey;
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

/** The one statement of a batch; prepared once a connection. */
export function admitBatch(batch: readonly Asked[], pepperId: string, blocking: AddressBlocking): QueryConfig {
  const callers = new Map<string, { readonly index: number; readonly caller: VerifyCaller }>();
  const callerOf = batch.map(({ caller }) => {
    const name = caller.kind === 'token' ? caller.tokenHash.toString('latin1') : caller.organizationId;
    const known = callers.get(name);
    if (known !== undefined) return known.index;
    callers.set(name, { index: callers.size + 1, caller });
    return callers.size;
  });
  const distinct = [...callers.values()].map(({ caller }) => caller);
  return {
    name: 'admit',
    text: 'SELECT * FROM admit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)',
    values: [
      distinct.map((caller) => (caller.kind === 'token' ? caller.tokenHash : null)),
      distinct.map((caller) => (caller.kind === 'organization' ? caller.organizationId : null)),
      VERIFYING_ROLES,
      pepperId,
      callerOf,
      batch.map((asked) => asked.lookupId),
      batch.map((asked) => asked.mac),
      batch.map((asked) => asked.request.cost),
      batch.map((asked) => (asked.request.permissions.length === 0 ? null : asked.request.permissions.join(' '))),
      batch.map((asked) => asked.request.environment),
      batch.map((asked) => asked.request.ip),
      batch.map((asked) => asked.request.origin),
      batch.map((asked) => asked.request.endpoint),
      batch.map((asked) => asked.request.requestId),
      // What tells distinct bad secrets apart: keyed, so that nobody can make up a thousand that look like one.
      batch.map((asked) => (asked.request.ip === null ? null : asked.mac.readInt32BE(0))),
      blocking.failures,
      blocking.within,
      blocking.blockFor,
    ],
  };
}
