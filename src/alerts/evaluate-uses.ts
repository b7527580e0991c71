import type { Kysely } from 'kysely';

import type { AlertFinding } from '../domain/alert.ts';
import type { AlertRule } from '../domain/alert-rule.ts';
import { balanceFindings } from '../domain/balance-alerts.ts';
import { keyHeadroom, organizationHeadroom, type Headroom } from '../domain/headroom.ts';
import { keyWindowFindings, organizationWindowFindings } from '../domain/window-alerts.ts';
import type { Tables } from '../postgres/tables.ts';
import { loadRules } from './load-rules.ts';
import type { RaiseAlerts } from './raise-alerts.ts';
import { changedKeys, readOrganizations, usedKeys } from './read-used.ts';
import type { Due, Slack } from './slack.ts';

/** Whose windows and balances are to be looked at. */
export type ToEvaluate = Due & {
  /** Ids of changed keys, and of organizations whose rules were changed. */
  readonly changedKeys: readonly string[];
  readonly ruledOrganizations: readonly string[];
};

export type EvaluateUsesOptions = {
  readonly raise: RaiseAlerts;
  readonly slack: Slack;
};

/** Raises what windows and balances have reached, and learns, once that is in the log, how far those that were used are from the next thresholds. */
export async function evaluateUses(db: Kysely<Tables>, wanted: ToEvaluate, { raise, slack }: EvaluateUsesOptions): Promise<void> {
  const keys = await usedKeys(db, wanted.keys);
  const changed = await changedKeys(db, wanted.changedKeys, wanted.ruledOrganizations);
  const organizations = await readOrganizations(db, wanted.organizations, wanted.ruledOrganizations);
  // After the windows: a rule that is set later than this is on a later page, which makes it forgotten what is learned here.
  const rules = await loadRules(
    db,
    [...keys, ...changed, ...organizations].map(({ organizationId }) => organizationId),
  );
  const rulesOf = (organizationId: string): readonly AlertRule[] => rules.get(organizationId) ?? [];

  const ofKeys = keys.map((key) => ({ key, findings: keyWindowFindings(key, rulesOf(key.organizationId)) }));
  const ofOrganizations = organizations.map((organization) => {
    const { organizationId, minute, balance } = organization;
    const findings = [
      ...(minute === null ? [] : organizationWindowFindings(minute, rulesOf(organizationId))),
      ...(balance === null ? [] : balanceFindings(balance, rulesOf(organizationId))),
    ];
    return { organization, findings };
  });
  const again = new Map<string, number>();
  await raise(
    [
      ...ofKeys.flatMap(({ findings }) => findings),
      ...changed.flatMap((key) => keyWindowFindings(key, rulesOf(key.organizationId))),
      ...ofOrganizations.flatMap(({ findings }) => findings),
    ],
    (series, againAtMs) => again.set(series, againAtMs),
  );

  for (const { key, findings } of ofKeys) {
    const { number, keyId, organizationId } = key;
    const headroom = keyHeadroom(key, rulesOf(organizationId));
    slack.learnKey(number, { keyId, organizationId, headroom, againAtMs: againAtMs(findings, again) });
  }
  const used = new Set(wanted.organizations);
  for (const { organization, findings } of ofOrganizations) {
    const { number, organizationId, minute, balance, uncounted } = organization;
    if (!used.has(number) || uncounted) continue;
    const headroom: Headroom = organizationHeadroom(minute, balance?.micros ?? null, rulesOf(organizationId));
    slack.learnOrganization(number, { keyId: null, organizationId, headroom, againAtMs: againAtMs(findings, again) });
  }
}

/** When the first of some thresholds that are reached may be told again. One that was raised just now is looked at once more. */
function againAtMs(findings: readonly AlertFinding[], again: ReadonlyMap<string, number>): number {
  return Math.min(...findings.map(({ series }) => again.get(series) ?? 0));
}
