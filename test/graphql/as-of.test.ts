import { setTimeout as sleep } from 'node:timers/promises';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { encodeGlobalId } from '../../src/graphql/global-id.ts';
import { headPosition } from '../../src/ledger/append.ts';
import { done } from '../support/ledger.ts';
import { at } from './at.ts';
import { openTestGraphql, type TestGraphql } from './graphql-server.ts';

const ORGANIZATION = `query ($position: Position, $at: DateTime) { viewer { organization { asOf(position: $position, at: $at) {
  name plan team caps { requestsPerSecond requestsPerMinute }
  settings { deletionPolicy quotaStatus publicKeyPermissions keyOperationsPerHour alertDefaults { quotaThresholds unusedForDays } } } } } }`;
const KEY = `query ($id: ID!, $position: Position, $at: DateTime) { node(id: $id) { ... on ApiKey {
  profile { name } asOf(position: $position, at: $at) { name profile { profileId name settings } } } } }`;

describe('the past by asOf', () => {
  let server: TestGraphql;
  beforeAll(async () => {
    server = await openTestGraphql();
  });
  afterAll(() => server.close());

  it('7.2 shows the settings and the caps of an organization as they were at a position and at a moment', async () => {
    const { organizations, owner } = server.ledger;
    const { organizationId } = owner;
    const before = await headPosition(server.ledger.db);
    done(await organizations.changeSettings(owner, { organizationId, quotaStatus: 401, publicKeyPermissions: ['read'] }));
    const changed = done(await organizations.changePlan(null, { organizationId, plan: 'ENTERPRISE', caps: { requestsPerMinute: 7 } }));
    // A Date is cut off to milliseconds, and the log's moments are of microseconds.
    await sleep(20);
    const moment = new Date();
    await sleep(20);
    done(await organizations.changeSettings(owner, { organizationId, deletionPolicy: 'UNUSED_KEYS', alertDefaults: { unusedForDays: 3 } }));
    const asOf = async (variables: object) => {
      const { data, errors } = await server.query(ORGANIZATION, { ...variables });
      expect(errors).toEqual([]);
      return at(data, 'viewer.organization.asOf');
    };
    const defaults = {
      deletionPolicy: 'ANY_KEY',
      quotaStatus: 429,
      publicKeyPermissions: null,
      keyOperationsPerHour: null,
      alertDefaults: { quotaThresholds: [50, 80, 95, 100], unusedForDays: 90 },
    };
    expect(await asOf({ position: String(before) })).toEqual({
      name: 'Acme',
      plan: 'ENTERPRISE',
      team: false,
      caps: { requestsPerSecond: null, requestsPerMinute: null },
      settings: defaults,
    });
    const then = { caps: { requestsPerMinute: 7 }, settings: { ...defaults, quotaStatus: 401, publicKeyPermissions: ['read'] } };
    expect(await asOf({ position: String(changed.position) })).toMatchObject(then);
    expect(await asOf({ at: moment.toISOString() })).toMatchObject(then);
    expect(await asOf({ position: String(await headPosition(server.ledger.db)) })).toMatchObject({
      settings: { deletionPolicy: 'UNUSED_KEYS', quotaStatus: 401, alertDefaults: { unusedForDays: 3 } },
    });
    expect(await asOf({ position: '0' })).toBeNull();
  });

  it('7.2 shows the profile of a key as it was then, whatever became of it', async () => {
    const { profiles, keys, owner } = server.ledger;
    const { organizationId } = owner;
    const created = done(await profiles.create(owner, { organizationId, name: 'bronze', settings: { tier: 1 } }));
    const { profileId } = created.result;
    const { keyId, position } = await server.ledger.newKey({ name: 'with a profile', profileId });
    const renamed = done(await profiles.update(owner, { id: profileId, name: 'silver', settings: { tier: 2 } }));
    const taken = done(await keys.update(owner, { id: keyId, profileId: null }));
    done(await profiles.delete(owner, { id: profileId }));
    const id = encodeGlobalId('ApiKey', keyId);
    const asOf = async (upTo: bigint) => at((await server.query(KEY, { id, position: String(upTo) })).data, 'node.asOf');
    expect(await asOf(position)).toEqual({ name: 'with a profile', profile: { profileId, name: 'bronze', settings: { tier: 1 } } });
    expect(await asOf(renamed.position)).toMatchObject({ profile: { profileId, name: 'silver', settings: { tier: 2 } } });
    expect(await asOf(taken.position)).toMatchObject({ profile: null });
    expect(await asOf(position - 1n)).toBeNull();
  });

  it('takes a position that the log has not come to as the present, where all that there is lies before it', async () => {
    const { keyId } = await server.ledger.newKey();
    const head = await headPosition(server.ledger.db);
    for (const [document, id] of [
      [ORGANIZATION, encodeGlobalId('Organization', server.ledger.organization.id)],
      [KEY, encodeGlobalId('ApiKey', keyId)],
    ] as const) {
      const asOf = async (position: bigint) => at((await server.query(document, { id, position: String(position) })).data, 'node.asOf');
      const present = await asOf(head);
      expect(present).not.toBeNull();
      for (const position of [head + 1n, 10n ** 18n - 1n]) expect(await asOf(position)).toEqual(present);
    }
    expect(server.logLines).toEqual([]);
  });
});
