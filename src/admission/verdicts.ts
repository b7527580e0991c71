import { codeNumber } from '../domain/usage.ts';
import { isRecorded, type AdmitRow, type Judged, type Special } from './admit-batch.ts';
import type { Decided } from './answer.ts';
import { CALLER_UNAUTHENTICATED, ceilingOf, unitsLeft, type KeyRules, type KeyUsed } from './facts.ts';
import type { KeyFacts } from './key-facts.ts';

const SECOND_MS = 1000;
const INVALID_KEY = codeNumber('INVALID_KEY');

/** What was decided about one request of a batch. */
export type Verdict = {
  readonly decided: Decided;
  readonly key: KeyFacts | null;
  readonly special: Special | null;
  /** Of the secret by which the presented one was looked up. */
  readonly lookupId: string | null;
};

/** Whether an outcome tells of a key: it was found, and the right secret was presented. */
function tellsOfKey(code: number): boolean {
  return code < CALLER_UNAUTHENTICATED && code !== INVALID_KEY;
}

/** A batch's answer, request by request; notes what it tells of the keys' windows. */
export function toVerdicts(batch: readonly Judged[], row: AdmitRow): readonly Verdict[] {
  const atMs = row.at.getTime();
  const { codes = null, rules = null, recorded = null, special: specials = null } = row.more ?? {};
  const left = leftByKey(batch, row);
  let next = row.first_position;
  return batch.map((judged, index) => {
    const { key } = judged.judgement;
    const code = codes?.[index] ?? judged.judgement.code;
    const special = specials?.[index] ?? null;
    const refusing = special !== null && 'retryAt' in special ? special : null;
    const position = (recorded === null ? isRecorded(judged) : recorded[index] === true) ? next : null;
    if (position !== null) next = position + 1n;
    return {
      decided: {
        code,
        rule: rules?.[index] ?? 0,
        position,
        outdated: judged.facts.verifier?.current === false,
        atMs,
        retryAtMs: refusing?.retryAt == null ? null : Date.parse(refusing.retryAt),
        quotaStatus: refusing?.quotaStatus ?? null,
        left: (key === null ? undefined : left.get(key)) ?? NOTHING_KNOWN_LEFT,
      },
      key: key !== null && tellsOfKey(code) ? key.told : null,
      special,
      lookupId: judged.facts.verifier?.lookupId ?? null,
    };
  });
}

const NOTHING_KNOWN_LEFT: Decided['left'] = { minute: null, total: null, daily: null, weekly: null, monthly: null };

/** What each key that was asked for has left, which is noted for the next batch. */
function leftByKey(batch: readonly Judged[], row: AdmitRow): ReadonlyMap<KeyRules, Decided['left']> {
  const usedBy = usedByKey(row);
  const second = Math.floor(row.at.getTime() / SECOND_MS);
  const left = new Map<KeyRules, Decided['left']>();
  for (const { judgement } of batch) {
    const { key } = judgement;
    const used = key === null ? undefined : usedBy(key.number);
    if (key === null || used === undefined || left.has(key)) continue;
    const units = unitsLeft(key.limits, used);
    left.set(key, units);
    key.windows.second = second;
    key.windows.ceiling = ceilingOf(used.total, units);
  }
  return left;
}

/** What keys that may be let through have used with the batch; undefined where nobody knows. */
function usedByKey(row: AdmitRow): (key: number) => KeyUsed | undefined {
  const { lone_used: lone, consumed_keys: keys } = row;
  if (lone !== null) {
    const [number, total = 0, minute = null, day = null, week = null, month = null] = lone;
    const used = { total, minute, day, week, month };
    return (key) => (key === number ? used : undefined);
  }
  const places = new Map<number, number>();
  keys?.forEach((key, place) => {
    if (key !== null) places.set(key, place);
  });
  return (key) => {
    const place = places.get(key);
    if (place === undefined) return undefined;
    return {
      total: row.total_used?.[place] ?? 0,
      minute: row.minute_used?.[place] ?? null,
      day: row.day_used?.[place] ?? null,
      week: row.week_used?.[place] ?? null,
      month: row.month_used?.[place] ?? null,
    };
  };
}
