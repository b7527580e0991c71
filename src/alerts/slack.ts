import type { Headroom } from '../domain/headroom.ts';
import type { KeyUse, UsePage } from './read-uses.ts';

/** Keys that are remembered; beyond it those that were read longest ago are forgotten, which costs a look at their windows. */
const REMEMBERED_KEYS = 200_000;
const REMEMBERED_ORGANIZATIONS = 20_000;
/** Whatever is known of a key, its windows are read again after this time if it is used. */
const LONGEST_MS = 60_000;

/** What is known of a key or an organization whose windows were read. */
export type Known = {
  /** Ids: those by which an event forgets it. A key is forgotten by its organization's, too. */
  readonly keyId: string | null;
  readonly organizationId: string;
  readonly headroom: Headroom;
  /** When, by the ledger's clock, one of the thresholds that are reached may be told again. */
  readonly againAtMs: number;
};
type Entry = { keyId: string | null; organizationId: string; credits: number; tokens: number; costMicros: number; untilMs: number };

/** Numbers of keys and organizations. */
export type Due = { readonly keys: readonly number[]; readonly organizations: readonly number[] };

/**
 * How much keys and organizations can still use before they can cross a threshold, so that the windows of the others need not be read. It only ever errs towards
 * reading: windows are read later than the page, so what they include already may be taken off once more, and everything that could only raise
 * what is used (an event, a repair, a page that was left out, a clock that was set back) makes it forget.
 */
export type Slack = {
  /** Takes off what a page has used, and answers whose windows have to be read now. Those are unknown until they are learned again. */
  due(page: UsePage): Due;
  learnKey(number: number, known: Known): void;
  learnOrganization(number: number, known: Known): void;
  forget(): void;
};

export function createSlack(): Slack {
  const keys = new Map<number, Entry>();
  const organizations = new Map<number, Entry>();
  let last: Pick<UsePage, 'upTo' | 'nowMs' | 'revision'> | null = null;
  /** By which page entries are learned. */
  let nowMs = 0;

  function forget(): void {
    keys.clear();
    organizations.clear();
    last = null;
  }

  function forgetChanged(page: UsePage): void {
    const [changedKeys, changedOrganizations] = [new Set(page.keysWithEvents), new Set(page.organizationsWithEvents)];
    if (changedKeys.size + changedOrganizations.size === 0) return;
    for (const entries of [keys, organizations]) {
      for (const [number, { keyId, organizationId }] of entries) {
        if ((keyId !== null && changedKeys.has(keyId)) || changedOrganizations.has(organizationId)) entries.delete(number);
      }
    }
  }

  return {
    due(page) {
      const follows = last !== null && last.upTo === page.after && last.revision === page.revision && last.nowMs <= page.nowMs;
      if (!follows) forget();
      ({ nowMs } = page);
      last = { upTo: page.upTo, nowMs, revision: page.revision };
      forgetChanged(page);
      const byOrganization = new Map<number, { credits: number; tokens: number; costMicros: number }>();
      for (const use of page.uses) {
        const sum = byOrganization.get(use.organization) ?? { credits: 0, tokens: 0, costMicros: 0 };
        sum.credits += use.credits;
        sum.costMicros += use.costMicros;
        byOrganization.set(use.organization, sum);
      }
      return {
        keys: page.uses.filter((use) => isDue(keys, use.key, use, nowMs)).map(({ key }) => key),
        organizations: [...byOrganization].filter(([number, use]) => isDue(organizations, number, use, nowMs)).map(([number]) => number),
      };
    },
    learnKey: (number, known) => learn(keys, REMEMBERED_KEYS, number, entryOf(known, nowMs)),
    learnOrganization: (number, known) => learn(organizations, REMEMBERED_ORGANIZATIONS, number, entryOf(known, nowMs)),
    forget,
  };
}

function isDue(
  entries: Map<number, Entry>,
  number: number,
  use: Pick<KeyUse, 'credits' | 'tokens' | 'costMicros'>,
  nowMs: number,
): boolean {
  const entry = entries.get(number);
  if (entry === undefined) return true;
  entry.credits -= use.credits;
  entry.tokens -= use.tokens;
  entry.costMicros -= use.costMicros;
  if (entry.credits > 0 && entry.tokens > 0 && entry.costMicros > 0 && nowMs < entry.untilMs) return false;
  entries.delete(number);
  return true;
}

function learn(entries: Map<number, Entry>, most: number, number: number, entry: Entry): void {
  entries.delete(number);
  if (entries.size >= most) {
    const [oldest] = entries.keys();
    if (oldest !== undefined) entries.delete(oldest);
  }
  entries.set(number, entry);
}

function entryOf({ keyId, organizationId, headroom, againAtMs }: Known, nowMs: number): Entry {
  return { keyId, organizationId, ...headroom, untilMs: Math.min(againAtMs, nowMs + LONGEST_MS) };
}
