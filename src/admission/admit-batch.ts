import type { QueryConfig } from 'pg';

import type { KeyType } from '../domain/key-format.ts';
import { permissionsOf, ROLES } from '../domain/permissions.ts';
import type { VerifyCaller, VerifyRequest } from './admission.ts';

/** A request as the batch's statement takes it. */
export type Asked = {
  readonly caller: VerifyCaller;
  readonly request: VerifyRequest;
  /** Empty where the presented text is no key of ours. */
  readonly lookupId: string;
  /** The presented secret's MAC under the current pepper. */
  readonly mac: Buffer;
};

/** What the statement answers for one request; the columns of the SQL function `admit` (migration 0004). */
export type AdmitRow = {
  readonly ordinal: number;
  readonly code: number;
  readonly rule: number;
  readonly position: bigint | null;
  readonly answered: Decided | null;
  readonly pepper_id: string | null;
  readonly argon2: string | null;
} & Decided;

/** The part of a row that a replay repeats; numbers may come as text or JSON numbers, moments as Date or text. */
export type Decided = {
  readonly code: number;
  readonly rule: number;
  readonly key_id: string | null;
  readonly organization_id: string;
  readonly name: string;
  readonly type: KeyType;
  readonly category: string;
  readonly permissions: readonly string[];
  readonly metadata: string;
  readonly expires_at: Date | string | null;
  readonly owner_id: string | null;
  readonly outdated: boolean;
  readonly quota_total: bigint | number | null;
  readonly quota_daily: bigint | number | null;
  readonly quota_weekly: bigint | number | null;
  readonly quota_monthly: bigint | number | null;
  readonly requests_per_minute: bigint | number | null;
  readonly tokens_per_minute: bigint | number | null;
  readonly minute_left: bigint | number | null;
  readonly token_left: bigint | number | null;
  readonly total_left: bigint | number | null;
  readonly day_left: bigint | number | null;
  readonly week_left: bigint | number | null;
  readonly month_left: bigint | number | null;
  readonly at: Date | string;
  readonly retry_at: Date | string | null;
};

/** Codes of `admit` that are no outcome of a verification. */
export const CALLER_UNAUTHENTICATED = 100;
export const CALLER_FORBIDDEN = 101;
export const OTHER_PEPPER = 102;
export const REQUEST_ID_TAKEN = 103;

const VERIFYING_ROLES = ROLES.filter((role) => permissionsOf(role).includes('keys:verify'));

/** The one statement of a batch; prepared once a connection. */
export function admitBatch(batch: readonly Asked[], pepperId: string): QueryConfig {
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
    text: 'SELECT * FROM admit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)',
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
    ],
  };
}
