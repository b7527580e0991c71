import type { VerifyAnswer } from '../admission/admission.ts';

const MINUTE_SECONDS = 60;
const DAY_SECONDS = 24 * 60 * MINUTE_SECONDS;
/** `TOTAL` is for all time. */
const WINDOW_SECONDS = { TOTAL: null, DAILY: DAY_SECONDS, WEEKLY: 7 * DAY_SECONDS, MONTHLY: 30 * DAY_SECONDS } as const;

type Policy = {
  readonly name: string;
  readonly limit: number;
  readonly remaining: number;
  readonly windowSeconds: number | null;
  /** Within these seconds the client can use no more than what remains; null where that is not known. */
  readonly effectiveSeconds: number | null;
};

/**
 * What the end client is told of its limits: `RateLimit-Policy` and `RateLimit` as draft-ietf-httpapi-ratelimit-headers-11 has them (structured fields, one item a limit: `key_minute`, `total`, `daily`, `weekly`,
 * `monthly`), and X-RateLimit-Limit, -Remaining and -Reset (epoch seconds) for one of them: the one that refused where its numbers are known, otherwise requests per minute. Retry-After where waiting helps.
 */
export function rateLimitFields(verdict: VerifyAnswer, nowEpochSeconds: number): Record<string, string | number> {
  const fields: Record<string, string | number> = {};
  const retryAfterSeconds = verdict.refusedBy?.retryAfterSeconds ?? null;
  if (retryAfterSeconds !== null) fields['retry-after'] = retryAfterSeconds;

  const refusing = refusingPolicy(verdict);
  let policies = '';
  let states = '';
  let shown: Policy | undefined;
  for (const policy of policiesOf(verdict, nowEpochSeconds)) {
    const { name, limit, remaining, windowSeconds, effectiveSeconds } = policy;
    const separator = policies === '' ? '' : ', ';
    policies += `${separator}"${name}";q=${limit}${parameter('w', windowSeconds)}`;
    states += `${separator}"${name}";r=${remaining}${parameter('t', effectiveSeconds)}`;
    if (name === refusing || (name === 'key_minute' && shown === undefined)) shown = policy;
  }
  if (policies !== '') {
    fields['ratelimit-policy'] = policies;
    fields['ratelimit'] = states;
  }
  if (shown === undefined) return fields;
  fields['x-ratelimit-limit'] = shown.limit;
  fields['x-ratelimit-remaining'] = shown.remaining;
  if (shown.name === 'key_minute' && verdict.rateLimit !== null) fields['x-ratelimit-reset'] = verdict.rateLimit.resetEpochSeconds;
  else if (shown.effectiveSeconds !== null) fields['x-ratelimit-reset'] = nowEpochSeconds + shown.effectiveSeconds;
  return fields;
}

function policiesOf({ code, rateLimit, quotas, refusedBy }: VerifyAnswer, nowEpochSeconds: number): readonly Policy[] {
  const refusing = refusingPolicy({ refusedBy });
  // Retry-After must not point before the end of an effective window (section 6), so a refusal has the window of the limit that refused alone.
  const effective = (name: string, otherwise: number | null) =>
    refusing === null ? otherwise : name === refusing ? (refusedBy?.retryAfterSeconds ?? null) : null;
  const policies: Policy[] = [];
  if (rateLimit !== null) {
    const untilReset = code === 'VALID' ? Math.max(0, rateLimit.resetEpochSeconds - nowEpochSeconds) : null;
    policies.push({
      name: 'key_minute',
      limit: rateLimit.limit,
      remaining: rateLimit.remaining,
      windowSeconds: MINUTE_SECONDS,
      effectiveSeconds: effective('key_minute', untilReset),
    });
  }
  for (const { window, limit, remaining } of quotas) {
    const name = window.toLowerCase();
    policies.push({ name, limit, remaining, windowSeconds: WINDOW_SECONDS[window], effectiveSeconds: effective(name, null) });
  }
  return policies;
}

function refusingPolicy({ refusedBy }: Pick<VerifyAnswer, 'refusedBy'>): string | null {
  if (refusedBy === null) return null;
  return 'quota' in refusedBy ? refusedBy.quota : refusedBy.limit;
}

/** An integer parameter of an item of a structured field (RFC 9651). By hand, as every verification has such fields. */
function parameter(name: string, value: number | null): string {
  return value === null ? '' : `;${name}=${value}`;
}
