import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { check } from '../../src/audit/check.ts';
import { at } from './at.ts';
import { openTestGraphql, type TestGraphql } from './graphql-server.ts';

const SETTINGS =
  'settings { deletionPolicy quotaStatus publicKeyPermissions keyOperationsPerHour alertDefaults { quotaThresholds expiringWithinDays unusedForDays } }';
const UPDATE = `mutation ($input: UpdateOrganizationSettingsInput!) { updateOrganizationSettings(input: $input) {
  __typename ... on UpdateOrganizationSettingsPayload { position organization { ${SETTINGS} } } ... on UserError { code message } } }`;

describe('settings of an organization in GraphQL', () => {
  let server: TestGraphql;
  beforeAll(async () => {
    server = await openTestGraphql({ keyOperationsPerHour: 3 });
  });
  afterAll(() => server.close());

  const update = async (changes: Readonly<Record<string, unknown>>) => {
    const { data, errors } = await server.query(UPDATE, { input: { organizationId: server.organizationId, ...changes } });
    expect(errors).toEqual([]);
    return at(data, 'updateOrganizationSettings');
  };

  it('are read on the organization, changed one by one, replayed by their idempotency key, and told by the log', async () => {
    const defaults = {
      deletionPolicy: 'ANY_KEY',
      quotaStatus: 429,
      publicKeyPermissions: null,
      keyOperationsPerHour: null,
      alertDefaults: { quotaThresholds: [50, 80, 95, 100], expiringWithinDays: 14, unusedForDays: 90 },
    };
    expect(at((await server.query(`{ viewer { organization { ${SETTINGS} } } }`)).data, 'viewer.organization.settings')).toEqual(defaults);
    const changes = { deletionPolicy: 'UNUSED_KEYS', alertDefaults: { unusedForDays: null }, idempotencyKey: 'once' };
    const changed = await update(changes);
    expect(at(changed, 'organization.settings')).toEqual({
      ...defaults,
      deletionPolicy: 'UNUSED_KEYS',
      alertDefaults: { ...defaults.alertDefaults, unusedForDays: null },
    });
    expect(await update(changes)).toEqual(changed);
    expect(await update({ ...changes, quotaStatus: 401 })).toMatchObject({ __typename: 'IdempotencyConflict' });
    const log =
      'query ($id: ID!) { node(id: $id) { ... on Organization { ledgerEvents(filter: { types: [ORGANIZATION_SETTINGS_CHANGED] }) { edges { node { data } } } } } }';
    expect(at((await server.query(log, { id: server.organizationId })).data, 'node.ledgerEvents.edges.0.node.data')).toEqual({
      deletionPolicy: 'UNUSED_KEYS',
      alertDefaults: { ...defaults.alertDefaults, unusedForDays: null },
    });
    const findings: unknown[] = [];
    await check(server.ledger.database, { onFinding: (finding) => findings.push(finding), onProgress: () => undefined });
    expect(findings).toEqual([]);
  });

  it('2.9 twenty creates in one request, beside others, count one by one, by the override of the organization', async () => {
    await update({ keyOperationsPerHour: 7 });
    const create = (alias: string) =>
      `${alias}: createApiKey(input: { organizationId: "${server.organizationId}", name: "${alias}", type: SECRET }) { __typename }`;
    const names = Array.from({ length: 20 }, (_, index) => `key_${index}`);
    const answers = await Promise.all([
      server.query(`mutation { ${names.slice(0, 10).map(create).join(' ')} }`),
      server.query(`mutation { ${names.slice(10, 15).map(create).join(' ')} }`),
      ...names.slice(15).map((name) => server.query(`mutation { ${create(name)} }`)),
    ]);
    const codes = answers.flatMap(({ errors }) => errors.map((error) => error.extensions?.['code']));
    expect(codes.every((code) => code === 'RATE_LIMITED')).toBe(true);
    const { count } = await server.ledger.db
      .selectFrom('api_keys')
      .select(({ fn }) => fn.countAll<number>().as('count'))
      .executeTakeFirstOrThrow();
    expect(Number(count)).toBe(7);
  });
});
