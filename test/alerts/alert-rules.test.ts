import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { check } from '../../src/audit/check.ts';
import { defaultRuleId } from '../../src/domain/alert-rule.ts';
import { encodeGlobalId } from '../../src/graphql/global-id.ts';
import { repairState } from '../../src/projections/state-repair.ts';
import { at, listAt, textAt } from '../graphql/at.ts';
import { asAdmin } from '../support/database.ts';
import { done } from '../support/ledger.ts';
import { openAlertingServer, type AlertingServer } from './alerting-server.ts';

describe('6.1 the rules of an organization', () => {
  let server: AlertingServer;
  beforeAll(async () => {
    server = await openAlertingServer();
  });
  afterAll(() => server.close());

  const RULE = 'alertRule { id kind enabled isDefault category percentages days apiKey { id } }';
  const organizationId = () => server.organizationId;
  const defaultId = (kind: Parameters<typeof defaultRuleId>[1]) =>
    encodeGlobalId('AlertRule', defaultRuleId(server.ledger.organization.id, kind));
  const rules = async (token = server.ownerToken) =>
    listAt(
      (await server.query('{ viewer { organization { alertRules { id kind enabled isDefault percentages days meaning } } } }', {}, token))
        .data,
      'viewer.organization.alertRules',
    ) as readonly {
      readonly id: string;
      readonly kind: string;
      readonly enabled: boolean;
      readonly percentages: readonly number[] | null;
    }[];
  const use = async (secret: string, times: number) => {
    for (let n = 0; n < times; n++) await server.ledger.verify(secret);
    await server.settled();
  };
  const percentsOf = async (keyId: string) => {
    const answer = await server.query(
      'query ($id: ID!) { node(id: $id) { ... on ApiKey { alerts(first: 50) { edges { node { details rule { id } } } } } } }',
      { id: encodeGlobalId('ApiKey', keyId) },
    );
    return listAt(answer.data, 'node.alerts.edges')
      .map((edge) => at(edge, 'node.details.percent'))
      .toReversed();
  };

  it('6.1 has one default rule of each kind but spending, without anything being set', async () => {
    expect((await rules()).map(({ kind, enabled }) => `${kind} ${enabled}`).toSorted()).toEqual(
      [
        'ERROR_RATE',
        'EXPIRING_SOON',
        'LOW_BALANCE',
        'QUOTA_THRESHOLD',
        'RATE_LIMIT_APPROACHED',
        'ROTATION_DUE',
        'UNUSED_KEY',
        'UNUSUAL_ACTIVITY',
      ].map((kind) => `${kind} true`),
    );
    expect((await rules()).find(({ kind }) => kind === 'QUOTA_THRESHOLD')?.percentages).toEqual([50, 80, 95, 100]);
  });

  it('6.1 follows the settings of the organization until it is changed itself, and then only itself', async () => {
    const other = await server.ledger.newOrganization('Settings');
    const { token } = await server.tokenOf({ memberId: other.owner.memberId }, other.id);
    const thresholds = async () => (await rules(token)).find(({ kind }) => kind === 'QUOTA_THRESHOLD')?.percentages;
    const set = (quotaThresholds: readonly number[]) =>
      server.ledger.organizations.changeSettings(other.owner, { organizationId: other.id, alertDefaults: { quotaThresholds } });
    done(await set([70]));
    expect(await thresholds()).toEqual([70]);
    const id = encodeGlobalId('AlertRule', defaultRuleId(other.id, 'QUOTA_THRESHOLD'));
    expect(await server.mutate('updateAlertRule', { id, percentages: [10, 60] }, RULE, token)).toMatchObject({
      __typename: 'UpdateAlertRulePayload',
      alertRule: { id, isDefault: true, enabled: true, percentages: [10, 60] },
    });
    done(await set([90]));
    expect(await thresholds()).toEqual([10, 60]);
    expect((await rules(token)).filter(({ kind }) => kind === 'QUOTA_THRESHOLD')).toHaveLength(1);
  });

  it('6.1 a rule that is disabled says nothing, one that is restricted says it of its category or key alone, and a deleted one is gone', async () => {
    const id = defaultId('QUOTA_THRESHOLD');
    expect(await server.mutate('updateAlertRule', { id, enabled: false }, RULE)).toMatchObject({ alertRule: { enabled: false } });
    const inCategory = await server.ledger.newKey({ category: 'gold', quotas: { total: 10 } });
    const chosen = await server.ledger.newKey({ quotas: { total: 10 } });
    const other = await server.ledger.newKey({ quotas: { total: 10 } });
    for (const { secret } of [inCategory, chosen, other]) await use(secret, 10);
    for (const { keyId } of [inCategory, chosen, other]) expect(await percentsOf(keyId)).toEqual([]);
    const create = (input: Readonly<Record<string, unknown>>) =>
      server.mutate('createAlertRule', { organizationId: organizationId(), kind: 'QUOTA_THRESHOLD', ...input }, RULE);
    // A new rule looks at what is used already.
    await create({ percentages: [30, 60], category: 'gold' });
    const ofKey = await create({ percentages: [40], apiKeyId: encodeGlobalId('ApiKey', chosen.keyId) });
    expect(ofKey).toMatchObject({ alertRule: { isDefault: false, apiKey: { id: encodeGlobalId('ApiKey', chosen.keyId) } } });
    await expect.poll(() => percentsOf(chosen.keyId), { timeout: 5000 }).toEqual([40]);
    expect(await percentsOf(inCategory.keyId)).toEqual([30, 60]);
    expect(await percentsOf(other.keyId)).toEqual([]);

    const ruleId = textAt(ofKey, 'alertRule.id');
    expect(await server.mutate('deleteAlertRule', { id: ruleId }, 'deletedId')).toMatchObject({ deletedId: ruleId });
    expect((await rules()).some((rule) => rule.id === ruleId)).toBe(false);
    expect(await server.mutate('updateAlertRule', { id: ruleId, percentages: [1] }, RULE)).toMatchObject({ code: 'NOT_FOUND' });
    const kept = await server.query(
      'query ($id: ID!) { node(id: $id) { ... on ApiKey { alerts { edges { node { message rule { id } } } } } } }',
      {
        id: encodeGlobalId('ApiKey', chosen.keyId),
      },
    );
    expect(at(kept.data, 'node.alerts.edges.0.node.rule')).toBeNull();
    await server.mutate('updateAlertRule', { id, enabled: true }, RULE);
    await expect.poll(() => percentsOf(other.keyId), { timeout: 5000 }).toEqual([50, 80, 95, 100]);
  });

  it('2.8 a retry with the same idempotency key makes no second rule and acknowledges nothing twice', async () => {
    const input = { organizationId: organizationId(), kind: 'UNUSED_KEY', days: [30], idempotencyKey: 'once' };
    const first = await server.mutate('createAlertRule', input, RULE);
    expect(await server.mutate('createAlertRule', input, RULE)).toEqual(first);
    expect(await server.mutate('createAlertRule', { ...input, days: [31] }, RULE)).toMatchObject({ code: 'IDEMPOTENCY_CONFLICT' });
  });

  it('bad input is refused with the name of the field and what would be right', async () => {
    const create = (input: Readonly<Record<string, unknown>>) =>
      server.mutate('createAlertRule', { organizationId: organizationId(), ...input }, RULE);
    const faults: readonly (readonly [Readonly<Record<string, unknown>>, string, RegExp])[] = [
      [{ kind: 'QUOTA_THRESHOLD' }, 'percentages', /needs it/],
      [{ kind: 'QUOTA_THRESHOLD', percentages: [] }, 'percentages', /give at least one/],
      [{ kind: 'QUOTA_THRESHOLD', percentages: [101] }, 'percentages.0', /give 1 to 100/],
      [{ kind: 'QUOTA_THRESHOLD', percentages: [50], days: [1] }, 'days', /it takes 'percentages'/],
      [{ kind: 'UNUSUAL_ACTIVITY', percentages: [50] }, 'percentages', /none of these/],
      [{ kind: 'SPENDING' }, 'amountMicros', /needs it/],
      [{ kind: 'SPENDING', amountMicros: 0.5 }, 'amountMicros', /whole number/],
      [{ kind: 'SPENDING', amountMicros: 5, category: 'gold' }, 'category', /as a whole/],
      [{ kind: 'LOW_BALANCE', amountMicros: 5, category: 'gold' }, 'category', /as a whole/],
      [{ kind: 'UNUSED_KEY', days: [5], category: '' }, 'category', /1 to 50/],
      [{ kind: 'UNUSED_KEY', days: [5], apiKeyId: 'x' }, 'apiKeyId', /no id of the type ApiKey/],
      [{ kind: 'UNUSED_KEY', days: [5], apiKeyId: encodeGlobalId('ApiKey', crypto.randomUUID()) }, 'apiKeyId', /no such key/],
    ];
    for (const [input, field, message] of faults) {
      const answer = await create(input);
      expect(answer).toMatchObject({ field, message: expect.stringMatching(message) as unknown });
    }
    const deleted = await server.mutate('deleteAlertRule', { id: defaultId('ERROR_RATE') }, 'deletedId');
    expect(deleted).toMatchObject({ code: 'INVALID_INPUT', message: expect.stringContaining('disable it') as unknown });
    expect(await server.mutate('acknowledgeAlert', { id: encodeGlobalId('Alert', crypto.randomUUID()) }, 'alert { id }')).toMatchObject({
      code: 'NOT_FOUND',
    });
  });

  it('6.2 an alert is acknowledged, and a rule changed, only by who can see it: a service without alerts:read, or that may not see the key, can not', async () => {
    const one = await server.newMember('MEMBER');
    const me = { ...server.ledger.owner, id: `member:${one.memberId}`, memberId: one.memberId };
    const personal = await server.ledger.newKey({ personal: true, quotas: { total: 1 } }, me);
    const shared = await server.ledger.newKey({ quotas: { total: 1 } });
    await use(personal.secret, 1);
    await use(shared.secret, 1);
    const alertOf = async (keyId: string) => {
      const { data } = await server.query(
        'query ($id: ID!) { node(id: $id) { ... on ApiKey { alerts(first: 1) { edges { node { id } } } } } }',
        {
          id: encodeGlobalId('ApiKey', keyId),
        },
      );
      return textAt(data, 'node.alerts.edges.0.node.id');
    };
    const [hidden, open] = [await alertOf(personal.keyId), await alertOf(shared.keyId)];
    const apiKeyId = encodeGlobalId('ApiKey', personal.keyId);
    const rule = { organizationId: organizationId(), kind: 'UNUSED_KEY', days: [5], apiKeyId };
    const created = await server.mutate('createAlertRule', rule, RULE);
    const ruleId = textAt(created, 'alertRule.id');
    const service = async (...permissions: readonly string[]) => (await server.tokenOf({ permissions })).token;
    const blind = await service('alerts:write');
    const reading = await service('alerts:write', 'alerts:read');
    const managing = await service('alerts:write', 'alerts:read', 'keys:read', 'keys:write');
    const acknowledge = (id: string, token: string) => server.mutate('acknowledgeAlert', { id }, 'alert { acknowledgedAt }', token);
    for (const id of [open, hidden, encodeGlobalId('Alert', crypto.randomUUID())])
      await expect(acknowledge(id, blind)).rejects.toThrow("needs the permission 'alerts:read'");
    expect(await acknowledge(hidden, reading)).toMatchObject({ code: 'NOT_FOUND', field: 'id' });
    for (const token of [blind, reading]) {
      expect(await server.mutate('updateAlertRule', { id: ruleId, enabled: false }, RULE, token)).toMatchObject({ code: 'NOT_FOUND' });
      expect(await server.mutate('deleteAlertRule', { id: ruleId }, 'deletedId', token)).toMatchObject({ code: 'NOT_FOUND' });
      expect(await server.mutate('createAlertRule', rule, RULE, token)).toMatchObject({ code: 'NOT_FOUND', field: 'apiKeyId' });
    }
    const { rows } = await server.ledger.database.pool.query("SELECT FROM events WHERE type = 'AlertAcknowledged'");
    expect(rows).toEqual([]);
    expect(await acknowledge(open, reading)).toMatchObject({ alert: { acknowledgedAt: expect.any(String) as string } });
    expect(await acknowledge(hidden, managing)).toMatchObject({ alert: { acknowledgedAt: expect.any(String) as string } });
    expect(await server.mutate('updateAlertRule', { id: ruleId, enabled: false }, RULE, managing)).toMatchObject({
      alertRule: { enabled: false },
    });
    expect(await server.mutate('deleteAlertRule', { id: ruleId }, 'deletedId', managing)).toMatchObject({ deletedId: ruleId });
  });

  it('another organization neither sees nor changes rules and alerts, and a member none about the personal key of another', async () => {
    const foreign = await server.ledger.newOrganization('Foreign');
    const { token } = await server.tokenOf({ memberId: foreign.owner.memberId }, foreign.id);
    const one = await server.newMember('MEMBER');
    const other = await server.newMember('MEMBER');
    const me = { ...server.ledger.owner, id: `member:${one.memberId}`, memberId: one.memberId };
    const { keyId, secret } = await server.ledger.newKey({ personal: true, quotas: { total: 1 } }, me);
    const streams = [await server.follow(null, one.token), await server.follow(null, other.token)] as const;
    await use(secret, 1);
    await streams[0].until(4);
    const alertId = streams[0].seen[0]?.alert.id ?? '';
    const sees = async (asked: string) =>
      at((await server.query('query ($id: ID!) { node(id: $id) { id } }', { id: alertId }, asked)).data, 'node.id');
    expect(await sees(one.token)).toBe(alertId);
    expect(await sees(server.ownerToken)).toBe(alertId);
    expect(await sees(other.token)).toBeUndefined();
    expect(await sees(token)).toBeUndefined();
    expect(streams[1].seen).toEqual([]);
    for (const stream of streams) await stream.end();
    const listed = await server.query('{ viewer { organization { alerts(first: 100) { edges { node { id } } } } } }', {}, other.token);
    expect(listAt(listed.data, 'viewer.organization.alerts.edges').some((edge) => at(edge, 'node.id') === alertId)).toBe(false);

    expect(await server.mutate('acknowledgeAlert', { id: alertId }, 'alert { id }', token)).toMatchObject({ code: 'NOT_FOUND' });
    expect(await server.mutate('updateAlertRule', { id: defaultId('ERROR_RATE'), enabled: false }, RULE, token)).toMatchObject({
      code: 'NOT_FOUND',
    });
    const rule = {
      organizationId: encodeGlobalId('Organization', foreign.id),
      kind: 'UNUSED_KEY',
      days: [5],
      apiKeyId: encodeGlobalId('ApiKey', keyId),
    };
    expect(await server.mutate('createAlertRule', rule, RULE, token)).toMatchObject({ code: 'NOT_FOUND' });
  });

  it('7.3 alerts and rules are compared with the log and made anew from it', async () => {
    const findings = async () => {
      const found: string[] = [];
      await check(server.ledger.database, {
        onFinding: ({ kind, subject }) => found.push(`${kind} ${subject.split(' ')[0]}`),
        onProgress: () => undefined,
      });
      return [...new Set(found)].toSorted();
    };
    expect(await findings()).toEqual([]);
    await asAdmin(
      (admin) =>
        admin.query("UPDATE keyledger.alerts SET message = 'all is well', acknowledged_at = now(); DELETE FROM keyledger.alert_rules"),
      server.ledger.testDatabase.name,
    );
    expect(await findings()).toEqual(['row-differs alerts', 'row-missing alert_rules']);
    const outcome = await repairState(server.ledger.database, { kinds: ['alert', 'alert-rule'], onProgress: () => undefined });
    expect(outcome.left).toEqual([]);
    expect(await findings()).toEqual([]);
  });
});
