import { randomUUID } from 'node:crypto';

import { VERIFICATION_REFUSALS } from '../domain/refusals.ts';
import { codeOf, httpStatusOf, requestIdOf } from '../domain/usage.ts';
import type { JsonValue } from '../lib/canonical-json.ts';
import type { RefusedBy, VerifyAnswer } from './admission.ts';
import type { Decided } from './admit-batch.ts';

const MINUTE_SECONDS = 60;
/** The rules of `admit` by number; 0 is none. */
const RULES = [null, 'key_minute', 'key_tokens', 'total', 'daily', 'weekly', 'monthly'] as const;

/** Puts a decided row into the form of the public contract. `requestId` is the caller's own or null. */
export function toAnswer(row: Decided, position: bigint | null, requestId: string | null): VerifyAnswer {
  const code = codeOf(row.code);
  const refusedBy = refusedByRule(row);
  const limited = code === 'VALID' || refusedBy !== null;
  return {
    kind: 'answer',
    code,
    message: code === 'VALID' ? null : messageOf(code, refusedBy),
    httpStatus: httpStatusOf(code),
    requestId: requestId ?? (position === null ? randomUUID() : requestIdOf(position)),
    position,
    key: code === 'VALID' ? keyOf(row) : null,
    rateLimit: limited ? rateLimitOf(row) : null,
    quotas: limited ? quotasOf(row) : [],
    refusedBy,
    keyId: code === 'INVALID_KEY' ? null : row.key_id,
  };
}

function messageOf(code: Exclude<ReturnType<typeof codeOf>, 'VALID'>, refusedBy: RefusedBy | null): string {
  const { message } = VERIFICATION_REFUSALS[code];
  return refusedBy !== null && 'quota' in refusedBy ? `${message} ${refusedBy.quota}` : message;
}

function refusedByRule(row: Decided): RefusedBy | null {
  const rule = RULES[row.rule];
  if (rule === null || rule === undefined) return null;
  const retryAfterSeconds = row.retry_at === null ? null : Math.max(1, Math.ceil((epochMs(row.retry_at) - epochMs(row.at)) / 1000));
  return rule === 'key_minute' || rule === 'key_tokens' ? { limit: rule, retryAfterSeconds } : { quota: rule, retryAfterSeconds };
}

function keyOf(row: Decided): VerifyAnswer['key'] {
  if (row.key_id === null) throw new Error('A valid verification came without its key.');
  return {
    id: row.key_id,
    name: row.name,
    type: row.type,
    category: row.category,
    permissions: row.permissions,
    metadata: row.metadata === '{}' ? {} : (JSON.parse(row.metadata) as JsonValue),
    expiresAt: row.expires_at === null ? null : new Date(row.expires_at),
    profile: null,
    organizationId: row.organization_id,
    ownerId: row.owner_id,
    outdatedSecret: row.outdated,
  };
}

function rateLimitOf(row: Decided): VerifyAnswer['rateLimit'] {
  if (row.requests_per_minute === null || row.minute_left === null) return null;
  // All of what is used now will have left the window by then.
  const resetEpochSeconds = Math.floor(epochMs(row.at) / 1000) + 1 + MINUTE_SECONDS;
  return { limit: Number(row.requests_per_minute), remaining: Number(row.minute_left), resetEpochSeconds };
}

function quotasOf(row: Decided): VerifyAnswer['quotas'] {
  const quotas: { window: 'TOTAL' | 'DAILY' | 'WEEKLY' | 'MONTHLY'; limit: number; remaining: number }[] = [];
  if (row.quota_total !== null) quotas.push({ window: 'TOTAL', limit: Number(row.quota_total), remaining: Number(row.total_left) });
  if (row.quota_daily !== null) quotas.push({ window: 'DAILY', limit: Number(row.quota_daily), remaining: Number(row.day_left) });
  if (row.quota_weekly !== null) quotas.push({ window: 'WEEKLY', limit: Number(row.quota_weekly), remaining: Number(row.week_left) });
  if (row.quota_monthly !== null) quotas.push({ window: 'MONTHLY', limit: Number(row.quota_monthly), remaining: Number(row.month_left) });
  return quotas;
}

function epochMs(moment: Date | string): number {
  return typeof moment === 'string' ? Date.parse(moment) : moment.getTime();
}
