import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { defaultRuleId } from '../../src/domain/alert-rule.ts';
import { encodeGlobalId } from '../../src/graphql/global-id.ts';
import { done } from '../support/ledger.ts';
import { openAlertingServer, type AlertingServer, type Raised } from './alerting-server.ts';

const HOUR_MS = 60 * 60 * 1000;
const DAY_MS = 24 * HOUR_MS;

describe('6.1 what time alone brings', () => {
  let server: AlertingServer;
  beforeAll(async () => {
    server = await openAlertingServer({ clock: true });
  });
  afterAll(() => server.close());

  const inDays = async (days: number): Promise<string> => new Date((await server.clock().now()).getTime() + days * DAY_MS).toISOString();
  const about = (seen: readonly Raised[], keyId: string) =>
    seen.filter(({ alert }) => alert.apiKey?.id === encodeGlobalId('ApiKey', keyId));

  it('6.1 a key that expires within 14 days raises an alert once, and again only for another expiry date', async () => {
    const stream = await server.follow();
    const { keyId } = await server.ledger.newKey({ name: 'short lived', expiresAt: await inDays(20) });
    await server.settled();
    expect(stream.seen).toEqual([]);
    await server.clock().advance(7 * DAY_MS);
    await stream.until(1);
    expect(stream.seen[0]?.alert).toMatchObject({
      kind: 'EXPIRING_SOON',
      severity: 'WARNING',
      details: { days: 14 },
      rule: { kind: 'EXPIRING_SOON', isDefault: true },
    });
    expect(stream.seen[0]?.alert.message).toMatch(/^Key "short lived" expires in 12 days, at \d{4}-/);
    await server.clock().advance(2 * DAY_MS);
    const expiresAt = await inDays(0.9);
    done(await server.ledger.keys.update(server.ledger.owner, { id: keyId, expiresAt }));
    await stream.until(2);
    expect(stream.seen[1]?.alert).toMatchObject({ kind: 'EXPIRING_SOON', severity: 'CRITICAL', details: { since: expiresAt } });
    await server.clock().advance(2 * DAY_MS);
    const other = await server.ledger.newKey({ expiresAt: await inDays(1) });
    await stream.until(3);
    expect(about(stream.seen, keyId)).toHaveLength(2);
    expect(about(stream.seen, other.keyId)).toHaveLength(1);
    await stream.end();
  });

  it('6.1 a key that nobody uses for 90 days raises an alert, and after another use another one', async () => {
    const { keyId, secret } = await server.ledger.newKey({ name: 'forgotten' });
    const stream = await server.follow();
    await server.clock().advance(50 * DAY_MS);
    await server.ledger.verify(secret);
    await server.settled();
    await server.clock().advance(50 * DAY_MS);
    const witness = await server.ledger.newKey({ expiresAt: await inDays(1) });
    await expect.poll(() => about(stream.seen, witness.keyId).length, { timeout: 5000 }).toBe(1);
    expect(about(stream.seen, keyId)).toEqual([]);
    await server.clock().advance(41 * DAY_MS);
    await expect.poll(() => about(stream.seen, keyId).length, { timeout: 5000 }).toBe(1);
    expect(about(stream.seen, keyId)[0]?.alert).toMatchObject({ kind: 'UNUSED_KEY', severity: 'INFO' });
    expect(about(stream.seen, keyId)[0]?.alert.message).toMatch(/^Key "forgotten" has not been used for more than 90 days, since /);
    await server.ledger.verify(secret);
    await server.settled();
    await server.clock().advance(91 * DAY_MS);
    await expect.poll(() => about(stream.seen, keyId).length, { timeout: 5000 }).toBe(2);
    await stream.end();
  });

  it('2.7 a rotation schedule that is due raises an alert, and regenerating begins it anew', async () => {
    const stream = await server.follow();
    const { keyId } = await server.ledger.newKey({ name: 'rotating', rotateEveryDays: 30 });
    await server.clock().advance(29 * DAY_MS);
    await server.settled();
    expect(about(stream.seen, keyId)).toEqual([]);
    await server.clock().advance(2 * DAY_MS);
    await expect.poll(() => about(stream.seen, keyId).length, { timeout: 5000 }).toBe(1);
    expect(about(stream.seen, keyId)[0]?.alert).toMatchObject({ kind: 'ROTATION_DUE', severity: 'WARNING', details: { days: 30 } });
    done(await server.ledger.keys.regenerate(server.ledger.owner, { id: keyId }));
    await server.clock().advance(31 * DAY_MS);
    await expect.poll(() => about(stream.seen, keyId).length, { timeout: 5000 }).toBe(2);
    await stream.end();
  });

  it('2.7 a category has a rotation schedule for those of its keys that have none of their own', async () => {
    const stream = await server.follow();
    const ofCategory = await server.ledger.newKey({ category: 'vault' });
    const ofItself = await server.ledger.newKey({ category: 'vault', rotateEveryDays: 60 });
    const elsewhere = await server.ledger.newKey({ category: 'cellar' });
    await server.clock().advance(50 * DAY_MS);
    const rule = await server.mutate(
      'createAlertRule',
      { organizationId: server.organizationId, kind: 'ROTATION_DUE', category: 'vault', everyDays: 40 },
      'alertRule { id kind everyDays category isDefault }',
    );
    expect(rule).toMatchObject({ alertRule: { kind: 'ROTATION_DUE', everyDays: 40, category: 'vault', isDefault: false } });
    await expect.poll(() => about(stream.seen, ofCategory.keyId).length, { timeout: 5000 }).toBe(1);
    expect(about(stream.seen, ofItself.keyId)).toEqual([]);
    expect(about(stream.seen, elsewhere.keyId)).toEqual([]);
    await stream.end();
  });

  it('6.1 a default rule that was changed is looked for as it was set, and one that was disabled not at all', async () => {
    const stream = await server.follow();
    const rule = (kind: 'EXPIRING_SOON' | 'UNUSED_KEY') => encodeGlobalId('AlertRule', defaultRuleId(server.ledger.organization.id, kind));
    await server.mutate('updateAlertRule', { id: rule('EXPIRING_SOON'), days: [30, 3] }, 'alertRule { days }');
    const key = await server.ledger.newKey({ expiresAt: await inDays(20) });
    // Keys of the tests before may be told of first.
    await expect.poll(() => about(stream.seen, key.keyId).length, { timeout: 5000 }).toBe(1);
    expect(about(stream.seen, key.keyId).map(({ alert }) => alert.details['days'])).toEqual([30]);
    await server.mutate('updateAlertRule', { id: rule('EXPIRING_SOON'), enabled: false }, 'alertRule { enabled }');
    await server.clock().advance(18 * DAY_MS);
    const witness = await server.ledger.newKey({ rotateEveryDays: 1 });
    await server.clock().advance(1.5 * DAY_MS);
    await expect.poll(() => about(stream.seen, witness.keyId).length, { timeout: 5000 }).toBe(1);
    expect(about(stream.seen, key.keyId)).toHaveLength(1);
    await stream.end();
  });
});
