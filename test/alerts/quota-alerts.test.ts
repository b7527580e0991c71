import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { encodeGlobalId } from '../../src/graphql/global-id.ts';
import { headPosition } from '../../src/ledger/append.ts';
import { at, listAt, textAt } from '../graphql/at.ts';
import type { Update } from '../graphql/graphql-server.ts';
import { done } from '../support/ledger.ts';
import { openAlertingServer, RAISED, type AlertingServer, type Raised } from './alerting-server.ts';

describe('6.1 quota thresholds', () => {
  let server: AlertingServer;
  beforeAll(async () => {
    server = await openAlertingServer();
  });
  afterAll(() => server.close());

  const verify = async (secret: string, times: number) => {
    for (let n = 0; n < times; n++) await server.ledger.verify(secret);
  };
  const told = (seen: readonly Raised[]) =>
    seen.map(({ alert }) => `${alert.severity} ${String(alert.details['window'])} ${String(alert.details['percent'])}`);

  it('6.1 at 50, 80, 95 and 100 % of a quota an alert is raised without anything being set, and reaches the socket', async () => {
    const stream = await server.follow('0');
    const { keyId, secret } = await server.ledger.newKey({ name: 'web shop', quotas: { daily: 20 } });
    await verify(secret, 9);
    await server.settled();
    expect(stream.seen).toEqual([]);
    await verify(secret, 1);
    await stream.until(1);
    expect(stream.seen[0]?.alert).toMatchObject({
      kind: 'QUOTA_THRESHOLD',
      severity: 'INFO',
      message: 'Key "web shop" has used 50 % or more of its daily quota: 10 of 20 requests in the last 24 hours.',
      details: { window: 'DAILY', percent: 50, used: '10', limit: '20' },
      apiKey: { id: encodeGlobalId('ApiKey', keyId), name: 'web shop' },
      rule: { kind: 'QUOTA_THRESHOLD', isDefault: true },
      acknowledgedAt: null,
    });
    await verify(secret, 15);
    await stream.until(4);
    await server.settled();
    expect(told(stream.seen)).toEqual(['INFO DAILY 50', 'WARNING DAILY 80', 'WARNING DAILY 95', 'CRITICAL DAILY 100']);
    await stream.end();
  });

  it('6.1 each quota of a key has thresholds of its own, and a cap that is lowered below what is used raises them without a request', async () => {
    const stream = await server.follow();
    const { keyId, secret } = await server.ledger.newKey({ quotas: { total: 1000, weekly: 1000, monthly: 10 } });
    await verify(secret, 6);
    await stream.until(1);
    expect(told(stream.seen)).toEqual(['INFO MONTHLY 50']);
    done(await server.ledger.keys.update(server.ledger.owner, { id: keyId, quotas: { total: 7, weekly: 12 } }));
    await stream.until(4);
    await server.settled();
    expect(told(stream.seen).toSorted()).toEqual(['INFO MONTHLY 50', 'INFO TOTAL 50', 'INFO WEEKLY 50', 'WARNING TOTAL 80']);
    await stream.end();
  });

  it('6.1 a minute that has come to 80 % of the limit raises an alert once an hour: requests and tokens of a key, requests of the organization', async () => {
    const stream = await server.follow();
    const { keyId, secret } = await server.ledger.newKey({ name: 'busy', limits: { requestsPerMinute: 10, tokensPerMinute: 1000 } });
    await verify(secret, 7);
    await server.settled();
    expect(stream.seen).toEqual([]);
    await verify(secret, 3);
    await stream.until(1);
    expect(stream.seen[0]?.alert).toMatchObject({
      kind: 'RATE_LIMIT_APPROACHED',
      severity: 'WARNING',
      details: { window: 'KEY_MINUTE', percent: 80 },
    });
    expect(stream.seen[0]?.alert.message).toMatch(
      /^Key "busy" has used 80 % or more of its rate limit: (?:8|9|10) of 10 requests within a minute\.$/,
    );
    const tokens = {
      requestId: null,
      keyId,
      at: null,
      endpoint: 'GET /',
      status: 200,
      durationMs: 1,
      ip: null,
      credits: 0,
      costMicros: null,
      model: null,
    };
    await server.ledger.admission.recordUsage(server.ledger.organization.id, [{ ...tokens, tokensIn: 500n, tokensOut: 400n }]);
    await stream.until(2);
    expect(stream.seen[1]?.alert).toMatchObject({
      kind: 'RATE_LIMIT_APPROACHED',
      details: { window: 'KEY_TOKENS', used: '900', limit: '1000' },
    });

    const caps = { requestsPerSecond: null, requestsPerMinute: 50 };
    done(await server.ledger.organizations.changePlan(null, { organizationId: server.ledger.organization.id, plan: 'ENTERPRISE', caps }));
    const free = await server.ledger.newKey();
    await verify(free.secret, 50);
    await stream.until(3);
    expect(stream.seen[2]?.alert).toMatchObject({
      kind: 'RATE_LIMIT_APPROACHED',
      apiKey: null,
      details: { window: 'ORGANIZATION_MINUTE', limit: '50' },
    });
    await verify(free.secret, 3);
    await server.settled();
    expect(stream.seen).toHaveLength(3);
    const none = { requestsPerSecond: null, requestsPerMinute: null };
    done(
      await server.ledger.organizations.changePlan(null, { organizationId: server.ledger.organization.id, plan: 'ENTERPRISE', caps: none }),
    );
    await stream.end();
  });

  it('6.2 an alert is kept, listed for its organization and its key, and acknowledged once', async () => {
    const { keyId, secret } = await server.ledger.newKey({ quotas: { total: 2 } });
    await verify(secret, 2);
    await server.settled();
    const query = `query ($key: ID!, $after: Position) { node(id: $key) { ... on ApiKey {
      alerts(first: 2, after: $after) { edges { cursor node { id details } } pageInfo { hasNextPage endCursor } } } } }`;
    const key = encodeGlobalId('ApiKey', keyId);
    const first = (await server.query(query, { key })).data;
    expect(listAt(first, 'node.alerts.edges').map((edge) => at(edge, 'node.details.percent'))).toEqual([100, 95]);
    const second = (await server.query(query, { key, after: textAt(first, 'node.alerts.pageInfo.endCursor') })).data;
    expect(listAt(second, 'node.alerts.edges').map((edge) => at(edge, 'node.details.percent'))).toEqual([80, 50]);
    expect(at(second, 'node.alerts.pageInfo.hasNextPage')).toBe(false);

    const id = textAt(first, 'node.alerts.edges.0.node.id');
    const acknowledged = await server.mutate('acknowledgeAlert', { id }, 'alert { id acknowledgedAt acknowledgedBy { id } }');
    expect(acknowledged).toMatchObject({ alert: { id, acknowledgedBy: { id: server.ledger.owner.id } } });
    const again = await server.mutate('acknowledgeAlert', { id }, 'alert { acknowledgedAt }');
    expect(at(again, 'alert.acknowledgedAt')).toBe(at(acknowledged, 'alert.acknowledgedAt'));
    const list = `query ($o: ID!, $filter: AlertFilter) { node(id: $o) { ... on Organization { alerts(first: 100, filter: $filter) { edges { node { id } } } } } }`;
    const open = await server.query(list, {
      o: server.organizationId,
      filter: { acknowledged: false, apiKeyId: key, kinds: ['QUOTA_THRESHOLD'] },
    });
    expect(listAt(open.data, 'node.alerts.edges')).toHaveLength(3);
    const noted = await server.query(list, { o: server.organizationId, filter: { acknowledged: true, severities: ['CRITICAL'] } });
    expect(listAt(noted.data, 'node.alerts.edges').map((edge) => at(edge, 'node.id'))).toEqual([id]);
  });

  it('6.3 alertRaised resumes over SSE after the last position that was seen', async () => {
    const { secret } = await server.ledger.newKey({ quotas: { total: 1 } });
    await verify(secret, 1);
    await server.settled();
    const all = await server.follow('0');
    await all.until(4);
    await server.settled();
    const positions = all.seen.map(({ position }) => position);
    await all.end();
    const abort = new AbortController();
    const stream = server.events(RAISED, { organization: server.organizationId, after: positions.at(-3) }, abort.signal);
    const rest: string[] = [];
    while (rest.length < 2) rest.push(textAt(((await stream.next()).value ?? {}) as Update, 'data.alertRaised.position'));
    abort.abort();
    expect(rest).toEqual(positions.slice(-2));
  });

  for (const transport of ['WebSocket', 'SSE'] as const) {
    it(`6.3 what random disconnects leave of alertRaised, put together, is every alert once, over ${transport}`, async () => {
      const start = await headPosition(server.ledger.db);
      const keys = await Promise.all(Array.from({ length: 6 }, () => server.ledger.newKey({ quotas: { total: 2, daily: 4 } })));
      const writer = (async () => {
        for (let round = 0; round < 2; round++) for (const { secret } of keys) await server.ledger.verify(secret);
      })();
      const expected = 6 * 5;
      const seen: string[] = [];
      let after = String(start);
      while (seen.length < expected) {
        const abort = new AbortController();
        const client = transport === 'WebSocket' ? server.socketClient() : null;
        const variables = { organization: server.organizationId, after };
        const stream = (client?.iterate({ query: RAISED, variables }) ??
          server.events(RAISED, variables, abort.signal)) as AsyncIterator<Update>;
        for (let taken = Math.ceil(Math.random() * 9); taken > 0 && seen.length < expected; taken--) {
          after = textAt((await stream.next()).value, 'data.alertRaised.position');
          seen.push(after);
        }
        abort.abort();
        await client?.dispose();
      }
      await writer;
      const { rows } = await server.ledger.database.pool.query<{ position: bigint }>(
        "SELECT position FROM events WHERE type = 'AlertRaised' AND position > $1 ORDER BY position",
        [start],
      );
      expect(seen).toEqual(rows.map(({ position }) => String(position)));
    });
  }
});
