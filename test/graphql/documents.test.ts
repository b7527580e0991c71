import { parse, specifiedRules, validate } from 'graphql';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { encodeGlobalId } from '../../src/graphql/global-id.ts';
import { buildSchema } from '../../src/graphql/schema.ts';
import { at, listAt, textAt } from './at.ts';
import { CONTRACT, KEY_ROW } from './contract-documents.ts';
import { openTestGraphql, randomName, type TestGraphql } from './graphql-server.ts';

describe('the documents of the public contract', () => {
  const schema = buildSchema();

  for (const [name, document] of Object.entries(CONTRACT)) {
    it(`${name} validates against the schema`, () => {
      expect(validate(schema, parse(document), specifiedRules).map((error) => error.message)).toEqual([]);
    });
  }

  it('a field that does not exist is noticed', () => {
    expect(validate(schema, parse('{ viewer { nickname } }')).length).toBe(1);
  });
});

describe('the documents, run', () => {
  let server: TestGraphql;
  beforeAll(async () => {
    server = await openTestGraphql();
  });
  afterAll(() => server.close());

  it('show the viewer', async () => {
    const { data, errors } = await server.query(CONTRACT.Viewer);
    expect(errors).toEqual([]);
    expect(data?.['viewer']).toMatchObject({
      role: 'OWNER',
      organization: { id: server.organizationId, name: 'Acme', plan: 'ENTERPRISE' },
    });
  });

  it('create, change, regenerate and delete a key, and show what came of it', async () => {
    const name = randomName();
    const input = {
      organizationId: server.organizationId,
      name,
      type: 'SECRET',
      category: 'production',
      permissions: ['read:experiences'],
      expiresAt: '2099-01-01T00:00:00Z',
      profileId: null,
      metadata: { team: 'red' },
      ipAllowlist: ['203.0.113.0/24'],
      personal: false,
      quotas: { total: null, daily: 1000, weekly: null, monthly: 5_000_000_000 },
      limits: { requestsPerMinute: 60, tokensPerMinute: null },
      rotateEveryDays: 90,
      idempotencyKey: 'create-1',
    };
    const created = await server.query(CONTRACT.CreateApiKey, { input });
    expect(created.errors).toEqual([]);
    const payload = at(created.data, 'createApiKey');
    const secret = textAt(payload, 'secret');
    const keyId = textAt(payload, 'apiKey.keyId');
    const id = textAt(payload, 'apiKey.id');
    const position = textAt(payload, 'position');
    expect(payload).toMatchObject({
      __typename: 'CreateApiKeyPayload',
      apiKey: { name, status: 'ACTIVE', personal: false, lastUsedAt: null, metadata: { team: 'red' } },
    });
    expect(id).toBe(encodeGlobalId('ApiKey', keyId));
    expect(at(payload, 'apiKey.quotas')).toMatchObject([
      { window: 'DAILY', limit: 1000, used: 0, remaining: 1000, availableAt: null },
      { window: 'MONTHLY', limit: 5_000_000_000, used: 0 },
    ]);
    expect(at(payload, 'apiKey.limits')).toEqual([{ unit: 'REQUESTS', windowSeconds: 60, limit: 60, remaining: 60 }]);
    const answered = await server.query(CONTRACT.CreateApiKey, { input });
    expect(answered.data?.['createApiKey']).toMatchObject({ secret, position, apiKey: { id } });

    const verified = await server.query(
      'mutation ($input: VerifyApiKeyInput!) { verifyApiKey(input: $input) { valid code message keyId requestId position key { name metadata } quotas { window remaining } rateLimit { remaining } } }',
      {
        input: {
          key: secret,
          permissions: ['read:experiences'],
          endpoint: 'GET /v1/models',
          ip: '203.0.113.9',
          environment: 'LIVE',
        },
      },
    );
    expect(verified.errors).toEqual([]);
    expect(verified.data?.['verifyApiKey']).toMatchObject({ valid: true, code: 'VALID', keyId, key: { name } });

    expect(at(await server.query(CONTRACT.M1, { input: { id, category: 'staging' } }), 'data.updateApiKey.apiKey.category')).toBe(
      'staging',
    );
    expect(at(await server.query(CONTRACT.M2, { input: { id } }), 'data.deactivateApiKey.apiKey.status')).toBe('INACTIVE');
    expect(at(await server.query(CONTRACT.M3, { input: { id } }), 'data.activateApiKey.apiKey.status')).toBe('ACTIVE');
    const regenerated = await server.query(CONTRACT.M4, { input: { id } });
    expect(textAt(regenerated.data, 'regenerateApiKey.secret')).not.toBe(secret);

    const listed = await server.query(CONTRACT.Keys, { organization: server.organizationId, filter: { search: name.toUpperCase() } });
    expect(at(listed.data, 'node.apiKeys')).toMatchObject({ totalCount: 1, pageInfo: { hasNextPage: false }, edges: [{ node: { id } }] });

    const now = Date.now();
    const shown = await server.query(CONTRACT.Key.replace('"42"', `"${position}"`), {
      id,
      from: new Date(now - 3_600_000).toISOString(),
      to: new Date(now + 60_000).toISOString(),
    });
    expect(shown.errors).toEqual([]);
    expect(shown.data?.['node']).toMatchObject({ id, asOf: { name, status: 'ACTIVE', permissions: ['read:experiences'] } });
    expect(listAt(shown.data, 'node.events.edges').map((edge) => at(edge, 'node.type'))).toEqual([
      'KEY_CREATED',
      'UPDATED',
      'DEACTIVATED',
      'ACTIVATED',
      'REGENERATED',
    ]);
    expect(at(shown.data, 'node.requestLog.edges')).toMatchObject([
      { node: { endpoint: 'GET /v1/models', ip: '203.0.113.9', credits: 1, code: 'VALID' } },
    ]);

    const log = await server.query(CONTRACT.Log, { organization: server.organizationId, after: '0' });
    expect(at(log.data, 'node.ledgerEvents.edges')).toMatchObject([{ node: { type: 'KEY_CREATED', subjectId: id, position } }]);

    const recorded = await server.query(
      'mutation ($input: RecordUsageInput!) { recordUsage(input: $input) { __typename ... on RecordUsagePayload { accepted duplicates position } ... on UserError { message } } }',
      {
        input: {
          items: [
            {
              requestId: at(verified.data, 'verifyApiKey.requestId'),
              endpoint: 'GET /v1/models',
              status: 200,
              durationMs: 12,
              costMicros: 1_500_000,
              tokensIn: 10,
            },
          ],
        },
      },
    );
    expect(recorded.data?.['recordUsage']).toMatchObject({ accepted: 1, duplicates: 0 });

    const deleted = await server.query(CONTRACT.M5, { input: { id, confirmName: name } });
    expect(deleted.data?.['deleteApiKey']).toMatchObject({ __typename: 'DeleteApiKeyPayload', deletedId: id });
    expect(at(await server.query(`query ($id: ID!) { node(id: $id) { ...KeyRow } } ${KEY_ROW}`, { id }), 'data.node.status')).toBe(
      'DELETED',
    );
    expect(server.ledger.errors).toEqual([]);
    expect(server.logLines).toEqual([]);
  });
});
