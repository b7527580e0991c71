import type { AlertFinding } from './alert.ts';
import type { AlertSeverity } from './alert-schemas.ts';

const DAY_MS = 24 * 60 * 60 * 1000;

/** What comes with the passing of time alone. */
export const TIME_KINDS = ['EXPIRING_SOON', 'UNUSED_KEY', 'ROTATION_DUE'] as const;
export type TimeKind = (typeof TIME_KINDS)[number];

/** A key of which a rule has something to say: it was looked for by that rule. */
export type TimeFacts = {
  readonly organizationId: string;
  readonly ruleId: string;
  readonly kind: TimeKind;
  readonly keyId: string;
  readonly name: string;
  /** EXPIRING_SOON: when it expires. UNUSED_KEY: when it was last used or, if never, created. ROTATION_DUE: when its secret was made. */
  readonly since: Date;
  /** The rule's threshold, or the key's own schedule. */
  readonly days: number;
  readonly neverUsed: boolean;
  /** As the look for it named it, so that it is not looked for again. */
  readonly series: string;
};

/** What is raised of it: once for each such moment, whatever window it is seen in. */
export function timeFinding(facts: TimeFacts, now: Date): AlertFinding {
  const { organizationId, ruleId, kind, keyId, series, since, days } = facts;
  return {
    organizationId,
    ruleId,
    kind,
    keyId,
    severity: severityOf(facts, now),
    message: messageOf(facts, now),
    details: { since: since.toISOString(), days },
    series,
    windowMs: null,
  };
}

function severityOf({ kind, since }: TimeFacts, now: Date): AlertSeverity {
  if (kind === 'UNUSED_KEY') return 'INFO';
  return kind === 'EXPIRING_SOON' && since.getTime() - now.getTime() <= DAY_MS ? 'CRITICAL' : 'WARNING';
}

function messageOf({ kind, name, since, days, neverUsed }: TimeFacts, now: Date): string {
  switch (kind) {
    case 'EXPIRING_SOON':
      return `Key "${name}" expires ${spanOf(since.getTime() - now.getTime())}, at ${since.toISOString()}.`;
    case 'UNUSED_KEY':
      return neverUsed
        ? `Key "${name}" was created more than ${daysOf(days)} ago and has never been used.`
        : `Key "${name}" has not been used for more than ${daysOf(days)}, since ${since.toISOString()}.`;
    case 'ROTATION_DUE':
      return `The secret of key "${name}" is to be rotated every ${daysOf(days)}; it was made at ${since.toISOString()}. Regenerate it.`;
  }
  return kind satisfies never;
}

function spanOf(ms: number): string {
  const hours = Math.floor(ms / (DAY_MS / 24));
  if (hours < 1) return 'within the hour';
  return hours < 48 ? `in ${hours === 1 ? '1 hour' : `${hours} hours`}` : `in ${Math.floor(hours / 24)} days`;
}

function daysOf(days: number): string {
  return days === 1 ? '1 day' : `${days} days`;
}
