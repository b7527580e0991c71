import { randomUUID } from 'node:crypto';

import { VERIFICATION_REFUSALS } from '../domain/refusals.ts';
import { codeOf, httpStatusOf, requestIdOf } from '../domain/usage.ts';
import type { RefusedBy, VerifiedKey, VerifyAnswer } from './admission.ts';
import type { StoredAnswer } from './admit-batch.ts';
import { toKeyFacts, toProfileFacts, type KeyFacts } from './key-facts.ts';

const MINUTE_SECONDS = 60;
/** The rules of `admit` by number; 0 is none. */
const RULES = [
  null,
  'key_minute',
  'key_tokens',
  'total',
  'daily',
  'weekly',
  'monthly',
  'organization_second',
  'organization_minute',
] as const;

/** One request's part of a decided batch. `left` are units after the batch; null where the key has no such limit. */
export type Decided = {
  readonly code: number;
  readonly rule: number;
  readonly position: bigint | null;
  readonly outdated: boolean;
  readonly atMs: number;
  readonly retryAtMs: number | null;
  /** What the organization lets an end client be answered whose key has used up a quota; null where nothing was refused by a limit. */
  readonly quotaStatus: number | null;
  readonly left: {
    readonly minute: number | null;
    readonly total: number | null;
    readonly daily: number | null;
    readonly weekly: number | null;
    readonly monthly: number | null;
  };
};

/** Puts a decision into the form of the public contract. `requestId` is the caller's own or null; `key` null where the secret was not right. */
export function toAnswer(decided: Decided, key: KeyFacts | null, requestId: string | null): VerifyAnswer {
  const code = codeOf(decided.code);
  const refusedBy = refusedByRule(decided);
  const limited = key !== null && (code === 'VALID' || refusedBy !== null);
  return {
    kind: 'answer',
    code,
    message: code === 'VALID' ? null : messageOf(code, refusedBy),
    httpStatus: code === 'QUOTA_EXCEEDED' && decided.quotaStatus !== null ? decided.quotaStatus : httpStatusOf(code),
    requestId: requestId ?? (decided.position === null ? randomUUID() : requestIdOf(decided.position)),
    position: decided.position,
    key: code === 'VALID' ? verifiedKey(key, decided.outdated) : null,
    rateLimit: limited ? rateLimitOf(decided, key) : null,
    quotas: limited ? quotasOf(decided, key) : [],
    refusedBy,
    keyId: key === null ? null : key.id,
  };
}

/** The answer that was given to the first request with an id. */
export function repeatAnswer(stored: StoredAnswer, position: bigint | null, requestId: string | null): VerifyAnswer {
  const decided: Decided = {
    code: stored.code,
    rule: stored.rule ?? 0,
    position,
    outdated: stored.outdated,
    atMs: Date.parse(stored.at),
    retryAtMs: stored.retryAt === null ? null : Date.parse(stored.retryAt),
    quotaStatus: stored.quotaStatus,
    left: { minute: stored.minuteLeft, total: stored.totalLeft, daily: stored.dayLeft, weekly: stored.weekLeft, monthly: stored.monthLeft },
  };
  return toAnswer(decided, toKeyFacts(stored.key, stored.profile === null ? null : toProfileFacts(stored.profile)), requestId);
}

function messageOf(code: Exclude<ReturnType<typeof codeOf>, 'VALID'>, refusedBy: RefusedBy | null): string {
  const { message } = VERIFICATION_REFUSALS[code];
  return refusedBy !== null && 'quota' in refusedBy ? `${message} ${refusedBy.quota}` : message;
}

function refusedByRule(decided: Decided): RefusedBy | null {
  const rule = RULES[decided.rule];
  if (rule === null || rule === undefined) return null;
  const retryAfterSeconds = decided.retryAtMs === null ? null : Math.max(1, Math.ceil((decided.retryAtMs - decided.atMs) / 1000));
  switch (rule) {
    case 'key_minute':
    case 'key_tokens':
    case 'organization_second':
    case 'organization_minute':
      return { limit: rule, retryAfterSeconds };
    case 'total':
    case 'daily':
    case 'weekly':
    case 'monthly':
      return { quota: rule, retryAfterSeconds };
  }
  return rule satisfies never;
}

function verifiedKey(key: KeyFacts | null, outdatedSecret: boolean): VerifiedKey {
  if (key === null) throw new Error('A valid verification came without its key.');
  return outdatedSecret ? { ...key.verified, outdatedSecret } : key.verified;
}

function rateLimitOf({ left, atMs }: Decided, key: KeyFacts): VerifyAnswer['rateLimit'] {
  if (key.requestsPerMinute === null || left.minute === null) return null;
  // All of what is used now will have left the window by then.
  return {
    limit: key.requestsPerMinute,
    remaining: Math.max(0, left.minute),
    resetEpochSeconds: Math.floor(atMs / 1000) + 1 + MINUTE_SECONDS,
  };
}

function quotasOf({ left }: Decided, { quotas }: KeyFacts): VerifyAnswer['quotas'] {
  const answer: { window: 'TOTAL' | 'DAILY' | 'WEEKLY' | 'MONTHLY'; limit: number; remaining: number }[] = [];
  if (quotas.total !== null && left.total !== null)
    answer.push({ window: 'TOTAL', limit: quotas.total, remaining: Math.max(0, left.total) });
  if (quotas.daily !== null && left.daily !== null)
    answer.push({ window: 'DAILY', limit: quotas.daily, remaining: Math.max(0, left.daily) });
  if (quotas.weekly !== null && left.weekly !== null)
    answer.push({ window: 'WEEKLY', limit: quotas.weekly, remaining: Math.max(0, left.weekly) });
  if (quotas.monthly !== null && left.monthly !== null)
    answer.push({ window: 'MONTHLY', limit: quotas.monthly, remaining: Math.max(0, left.monthly) });
  return answer;
}
