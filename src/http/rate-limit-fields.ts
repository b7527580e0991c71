import type { RefusedBy, VerifyAnswer } from '../admission/admission.ts';
import type { AnswerHeaders } from './answer.ts';
import type { FieldList } from './exchange.ts';

const MINUTE_SECONDS = 60;
const DAY_SECONDS = 24 * 60 * MINUTE_SECONDS;

type Limit = { readonly name: string; /** As a parameter of its policy; `TOTAL` is for all time. */ readonly window: string };

const KEY_MINUTE: Limit = { name: 'key_minute', window: `;w=${MINUTE_SECONDS}` };
const QUOTAS = {
  TOTAL: { name: 'total', window: '' },
  DAILY: { name: 'daily', window: `;w=${DAY_SECONDS}` },
  WEEKLY: { name: 'weekly', window: `;w=${7 * DAY_SECONDS}` },
  MONTHLY: { name: 'monthly', window: `;w=${30 * DAY_SECONDS}` },
} as const satisfies Record<string, Limit>;

/**
 * What the end client is told of its limits: `RateLimit-Policy` and `RateLimit` as draft-ietf-httpapi-ratelimit-headers-11 has them (structured fields, one item a limit: `key_minute`, `total`, `daily`, `weekly`,
 * `monthly`), and X-RateLimit-Limit, -Remaining and -Reset (epoch seconds) for one of them: the one that refused where its numbers are known, otherwise requests per minute. Retry-After where waiting helps.
 * Put together by hand, as every verification has such fields.
 */
export function rateLimitFields({ code, rateLimit, quotas, refusedBy }: VerifyAnswer, nowEpochSeconds: number): FieldList {
  const retryAfterSeconds = refusedBy?.retryAfterSeconds ?? null;
  const fields: FieldList = retryAfterSeconds === null ? [] : ['retry-after', retryAfterSeconds];
  const refusing = nameOfRefusing(refusedBy);
  let policies = '';
  let states = '';
  let shown: readonly [limit: number, remaining: number, resetEpochSeconds: number | null] | undefined;

  if (rateLimit !== null) {
    const { limit, remaining, resetEpochSeconds } = rateLimit;
    policies = policyOf(KEY_MINUTE, limit);
    const untilReset = code === 'VALID' ? Math.max(0, resetEpochSeconds - nowEpochSeconds) : null;
    states = stateOf(KEY_MINUTE, remaining, refusing === null ? untilReset : refusing === KEY_MINUTE.name ? retryAfterSeconds : null);
    shown = [limit, remaining, resetEpochSeconds];
  }
  for (const { window, limit, remaining } of quotas) {
    const quota = QUOTAS[window];
    const refuses = refusing === quota.name;
    if (policies !== '') {
      policies += ', ';
      states += ', ';
    }
    policies += policyOf(quota, limit);
    // Retry-After must not point before the end of an effective window (section 6), so a refusal has the window of the limit that refused alone.
    states += stateOf(quota, remaining, refuses ? retryAfterSeconds : null);
    if (refuses) shown = [limit, remaining, retryAfterSeconds === null ? null : nowEpochSeconds + retryAfterSeconds];
  }

  if (policies !== '') fields.push('ratelimit-policy', policies, 'ratelimit', states);
  if (shown !== undefined) {
    const [limit, remaining, resetEpochSeconds] = shown;
    fields.push('x-ratelimit-limit', limit, 'x-ratelimit-remaining', remaining);
    if (resetEpochSeconds !== null) fields.push('x-ratelimit-reset', resetEpochSeconds);
  }
  return fields;
}

/** The same by name. */
export function rateLimitHeaders(verdict: VerifyAnswer, nowEpochSeconds: number): AnswerHeaders {
  const fields = rateLimitFields(verdict, nowEpochSeconds);
  const headers: Record<string, string | number> = {};
  for (let index = 0; index < fields.length; index += 2) headers[String(fields[index])] = fields[index + 1] ?? '';
  return headers;
}

function policyOf({ name, window }: Limit, limit: number): string {
  return `"${name}";q=${limit}${window}`;
}

/** `effectiveSeconds`: within these the client can use no more than what remains; null where that is not known. */
function stateOf({ name }: Limit, remaining: number, effectiveSeconds: number | null): string {
  return effectiveSeconds === null ? `"${name}";r=${remaining}` : `"${name}";r=${remaining};t=${effectiveSeconds}`;
}

function nameOfRefusing(refusedBy: RefusedBy | null): string | null {
  if (refusedBy === null) return null;
  return 'quota' in refusedBy ? refusedBy.quota : refusedBy.limit;
}
