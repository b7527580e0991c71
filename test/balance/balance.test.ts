import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { check } from '../../src/audit/check.ts';
import type { Finding } from '../../src/audit/finding.ts';
import { encodeGlobalId } from '../../src/graphql/global-id.ts';
import { repairBalances } from '../../src/projections/balance-repair.ts';
import { openTestGraphql, randomName, type TestGraphql } from '../graphql/graphql-server.ts';
import { at } from '../graphql/at.ts';
import { openDataPlane, type DataPlane } from '../http/data-plane.ts';
import { asAdmin } from '../support/database.ts';
import { done } from '../support/ledger.ts';

const ENABLE = `mutation ($input: EnableBalanceInput!) { enableBalance(input: $input) { __typename ... on EnableBalancePayload { position balance { micros suspended } } ... on UserError { code message } ... on InvalidInput { field } } }`;
const DISABLE = `mutation ($input: DisableBalanceInput!) { disableBalance(input: $input) { __typename ... on DisableBalancePayload { position balance { micros } } ... on UserError { code message } } }`;
const ADD = `mutation ($input: AddFundsInput!) { addFunds(input: $input) { __typename ... on AddFundsPayload { position balance { micros suspended } } ... on UserError { code message } ... on InvalidInput { field } } }`;
const BALANCE = `query ($id: ID!) { node(id: $id) { ... on Organization { balance { micros amount suspended } } } }`;
const CREATE = `mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { __typename ... on CreateApiKeyPayload { secret } ... on UserError { code message } } }`;
const RECORD = `mutation ($input: RecordUsageInput!) { recordUsage(input: $input) { ... on RecordUsagePayload { accepted } ... on UserError { code message } } }`;

const UNIT = 1_000_000;

describe('3.4 a prepaid balance', () => {
  let server: TestGraphql;
  let plane: DataPlane;
  let operator: string;
  beforeAll(async () => {
    server = await openTestGraphql();
    plane = await openDataPlane({ on: server.ledger });
    operator = (await server.tokenOf({ permissions: ['balance:write'] })).token;
  });
  afterAll(async () => {
    await plane.close();
    await server.close();
  });

  /** An organization with a key, and what its people and gateways do. */
  async function newTenant(fundsMicros?: number) {
    const { id, owner } = await server.ledger.newOrganization('Tenant');
    const globalId = encodeGlobalId('Organization', id);
    const key = await server.ledger.newKey({}, owner);
    const member = await server.tokenOf({ memberId: owner.memberId }, id);
    const gateway = await server.tokenOf({ permissions: ['keys:verify', 'usage:write'] }, id);
    if (fundsMicros !== undefined) {
      const enabled = await server.query(ENABLE, { input: { organizationId: globalId, fundsMicros } }, operator);
      expect(enabled.data).toMatchObject({ enableBalance: { __typename: 'EnableBalancePayload' } });
    }
    return {
      id,
      globalId,
      owner,
      ...key,
      verify: async (more: object = {}) => (await plane.post('/v1/verify', { key: key.secret, ...more }, { token: gateway.token })).body,
      settle: (items: readonly object[]) =>
        plane.post(
          '/v1/usage',
          items.map((item) => ({ endpoint: 'POST /v1/chat', status: 200, durationMs: 5, ...item })),
          { token: gateway.token },
        ),
      balance: async () => at(await server.query(BALANCE, { id: globalId }, member.token), 'data.node.balance'),
      ask: (document: string, input: object) => server.query(document, { input }, member.token),
      fund: async (micros: unknown, more: object = {}) =>
        at(await server.query(ADD, { input: { organizationId: globalId, micros, ...more } }, operator), 'data.addFunds'),
    };
  }

  it('is off until it is asked for: nothing is charged and nobody refused', async () => {
    const tenant = await newTenant();
    expect(await tenant.balance()).toBeNull();
    expect((await tenant.settle([{ keyId: tenant.keyId, costMicros: 5 * UNIT }])).status).toBe(200);
    expect(await tenant.verify()).toMatchObject({ valid: true });
    expect(await tenant.fund(1)).toMatchObject({
      code: 'INVALID_INPUT',
      field: 'organizationId',
      message: expect.stringContaining('enableBalance') as string,
    });
    // What was used before does not count.
    expect(
      at(await server.query(ENABLE, { input: { organizationId: tenant.globalId, fundsMicros: UNIT } }, operator), 'data.enableBalance'),
    ).toMatchObject({
      balance: { micros: UNIT, suspended: false },
    });
  });

  it('is charged by what is settled and what is reported, each once, in the transaction that records it', async () => {
    const tenant = await newTenant(10 * UNIT);
    const { requestId } = await tenant.verify();
    expect(
      (await tenant.settle([{ requestId, costMicros: 1_500_000 }, { keyId: tenant.keyId, costMicros: '250000' }, { keyId: tenant.keyId }]))
        .body,
    ).toMatchObject({
      accepted: 3,
    });
    expect(await tenant.balance()).toEqual({ micros: 8_250_000, amount: '8.250000', suspended: false });
    // 5.4: the same request settled again, in one report and in another, is a duplicate and costs nothing.
    expect(
      (
        await tenant.settle([
          { requestId, costMicros: 1_500_000 },
          { requestId, costMicros: 7 },
        ])
      ).body,
    ).toMatchObject({ accepted: 0, duplicates: 2 });
    const own = { requestId: 'mine', keyId: tenant.keyId, costMicros: 250_000 };
    expect((await tenant.settle([own, own])).body).toMatchObject({ accepted: 1, duplicates: 1 });
    expect(await tenant.balance()).toMatchObject({ micros: 8 * UNIT });
    // One bad item refuses the report, and nothing of it is charged.
    expect(
      (
        await tenant.settle([
          { keyId: tenant.keyId, costMicros: UNIT },
          { keyId: crypto.randomUUID(), costMicros: UNIT },
        ])
      ).status,
    ).toBe(400);
    expect(await tenant.balance()).toMatchObject({ micros: 8 * UNIT });
    expect(
      (await tenant.ask(RECORD, { items: [{ keyId: tenant.keyId, endpoint: 'GET /', status: 200, durationMs: 1, costMicros: 3 * UNIT }] }))
        .data,
    ).toEqual({
      recordUsage: { accepted: 1 },
    });
    expect(await tenant.balance()).toMatchObject({ micros: 5 * UNIT });
  });

  it('suspends every key at 0.05 and below, from the answer of the report on, and lifts that with the answer of the funds', async () => {
    const tenant = await newTenant(UNIT);
    const { secret } = await server.ledger.newKey({}, tenant.owner);
    await tenant.settle([{ keyId: tenant.keyId, costMicros: 949_999 }]);
    expect(await tenant.balance()).toEqual({ micros: 50_001, amount: '0.050001', suspended: false });
    expect(await tenant.verify()).toMatchObject({ valid: true, code: 'VALID' });
    await tenant.settle([{ keyId: tenant.keyId, costMicros: 1 }]);
    expect(await tenant.balance()).toEqual({ micros: 50_000, amount: '0.050000', suspended: true });
    expect(await tenant.verify()).toMatchObject({ valid: false, code: 'INSUFFICIENT_BALANCE', message: 'Insufficient balance' });
    expect(await server.ledger.verify(secret, {}, tenant.id)).toMatchObject({ code: 'INSUFFICIENT_BALANCE', httpStatus: 402 });
    // Whoever lacks the secret learns nothing of the balance.
    expect(await server.ledger.verify(`${secret.slice(0, -1)}!`, {}, tenant.id)).toMatchObject({ code: 'INVALID_KEY' });
    // 4.2: behind a proxy the end client is answered 402.
    const gateway = await server.tokenOf({ permissions: ['keys:verify'] }, tenant.id);
    const forwarded = await plane.ask('/v1/forward-auth', { headers: { 'x-gateway-token': gateway.token, 'x-api-key': secret } });
    expect(forwarded).toMatchObject({ status: 402, body: { error: 'Insufficient balance' } });
    expect(await tenant.fund(1)).toMatchObject({ balance: { micros: 50_001, suspended: false } });
    expect(await tenant.verify()).toMatchObject({ valid: true });
    // What is under way when funds run out is still charged: the balance may fall below zero.
    await tenant.settle([{ keyId: tenant.keyId, costMicros: UNIT }]);
    expect(await tenant.balance()).toEqual({ micros: -949_999, amount: '-0.949999', suspended: true });
  });

  it('of zero or below creates no key; a refusal uses up no name', async () => {
    const tenant = await newTenant(60_000);
    const create = async (name: string) =>
      at(await tenant.ask(CREATE, { organizationId: tenant.globalId, name, type: 'SECRET' }), 'data.createApiKey');
    await tenant.settle([{ keyId: tenant.keyId, costMicros: 59_999 }]);
    // Suspended, and above zero.
    expect(await create(randomName())).toMatchObject({ __typename: 'CreateApiKeyPayload' });
    await tenant.settle([{ keyId: tenant.keyId, costMicros: 1 }]);
    const name = randomName();
    expect(await create(name)).toMatchObject({ __typename: 'InsufficientBalance', code: 'INSUFFICIENT_BALANCE' });
    await tenant.fund(1);
    expect(await create(name)).toMatchObject({ __typename: 'CreateApiKeyPayload' });
  });

  it('takes funds once an idempotency key, positive and bounded, of an operator alone', async () => {
    const tenant = await newTenant(UNIT);
    const first = await tenant.fund(5 * UNIT, { idempotencyKey: 'payment 1' });
    expect(await tenant.fund(5 * UNIT, { idempotencyKey: 'payment 1' })).toEqual(first);
    expect(await tenant.fund(6 * UNIT, { idempotencyKey: 'payment 1' })).toMatchObject({ code: 'IDEMPOTENCY_CONFLICT' });
    expect(await tenant.balance()).toMatchObject({ micros: 6 * UNIT });
    for (const micros of [0, -1, 0.5, 1e15 + 1])
      expect(await tenant.fund(micros)).toMatchObject({ code: 'INVALID_INPUT', field: 'micros' });
    for (let time = 0; time < 9; time++) await tenant.fund(1e15);
    expect(await tenant.fund(1e15)).toMatchObject({ code: 'INVALID_INPUT', field: 'micros' });
    expect((await tenant.ask(ADD, { organizationId: tenant.globalId, micros: 1 })).errors[0]?.extensions).toMatchObject({
      code: 'FORBIDDEN',
    });
    expect((await tenant.ask(ENABLE, { organizationId: tenant.globalId })).errors[0]?.extensions).toMatchObject({ code: 'FORBIDDEN' });
    // Enabling again changes nothing; with funds it would be a surprise, and is refused.
    expect(at(await server.query(ENABLE, { input: { organizationId: tenant.globalId } }, operator), 'data.enableBalance.__typename')).toBe(
      'EnableBalancePayload',
    );
    expect(
      at(await server.query(ENABLE, { input: { organizationId: tenant.globalId, fundsMicros: 1 } }, operator), 'data.enableBalance'),
    ).toMatchObject({
      code: 'INVALID_INPUT',
      field: 'fundsMicros',
    });
    const nobody = { organizationId: encodeGlobalId('Organization', crypto.randomUUID()), micros: 1 };
    expect(at(await server.query(ADD, { input: nobody }, operator), 'data.addFunds')).toMatchObject({ code: 'NOT_FOUND' });
  });

  it('can be switched off, once and by the operator alone: then nothing is charged and nobody refused; switched on again it begins anew', async () => {
    const tenant = await newTenant(UNIT);
    const input = { organizationId: tenant.globalId, idempotencyKey: 'off' };
    const disable = async (more: object = {}) =>
      at(await server.query(DISABLE, { input: { ...input, ...more } }, operator), 'data.disableBalance');
    await tenant.settle([{ keyId: tenant.keyId, costMicros: 2 * UNIT }]);
    expect(await tenant.verify()).toMatchObject({ code: 'INSUFFICIENT_BALANCE' });
    expect((await tenant.ask(DISABLE, { organizationId: tenant.globalId })).errors[0]?.extensions).toMatchObject({ code: 'FORBIDDEN' });
    const first = await disable();
    expect(first).toMatchObject({ __typename: 'DisableBalancePayload', balance: null });
    expect(await disable()).toEqual(first);
    expect(await disable({ idempotencyKey: null })).toMatchObject({ __typename: 'DisableBalancePayload' });
    expect(await tenant.verify()).toMatchObject({ valid: true });
    expect(await tenant.balance()).toBeNull();
    await tenant.settle([{ keyId: tenant.keyId, costMicros: 2 * UNIT }]);
    expect(await tenant.balance()).toBeNull();
    expect(await tenant.fund(1)).toMatchObject({ code: 'INVALID_INPUT', field: 'organizationId' });
    const { rows } = await sql<{ type: string }>`
      SELECT type FROM events WHERE stream = ${`organization:${tenant.id}`} AND type LIKE '%Balance%' ORDER BY version`.execute(
      server.ledger.db,
    );
    expect(rows.map(({ type }) => type)).toEqual(['BalanceEnabled', 'BalanceDisabled']);
    const enabled = await server.query(ENABLE, { input: { organizationId: tenant.globalId, fundsMicros: 3 * UNIT } }, operator);
    expect(at(enabled, 'data.enableBalance')).toMatchObject({ balance: { micros: 3 * UNIT } });
    await tenant.settle([{ keyId: tenant.keyId, costMicros: 7 }]);
    expect(await tenant.balance()).toMatchObject({ micros: 3 * UNIT - 7 });
    const nobody = { organizationId: encodeGlobalId('Organization', crypto.randomUUID()) };
    expect(at(await server.query(DISABLE, { input: nobody }, operator), 'data.disableBalance')).toMatchObject({ code: 'NOT_FOUND' });
    const found: Finding[] = [];
    await check(server.ledger.database, { onFinding: (finding) => found.push(finding), onProgress: () => undefined });
    expect(found).toEqual([]);
  });

  it('is always the sum of its events: check finds what is not, and rebuild mends it while usage is settled', async () => {
    const tenant = await newTenant(UNIT);
    await tenant.settle([{ keyId: tenant.keyId, costMicros: 1000 }]);
    const number = Number(
      (await sql<{ number: number }>`SELECT number FROM organizations WHERE id = ${tenant.id}`.execute(server.ledger.db)).rows[0]?.number,
    );
    const differences = async (): Promise<readonly Finding[]> => {
      const found: Finding[] = [];
      await check(server.ledger.database, { onFinding: (finding) => found.push(finding), onProgress: () => undefined });
      return found.filter(({ kind }) => kind === 'balance-differs');
    };
    expect(await differences()).toEqual([]);
    for (const damage of [
      `UPDATE keyledger.balances SET micros = micros + 7 WHERE organization = ${number}`,
      `DELETE FROM keyledger.balances WHERE organization = ${number}`,
      'INSERT INTO keyledger.balances (organization, micros) VALUES (999999, 5)',
    ]) {
      await asAdmin(async (admin) => void (await admin.query(damage)), server.ledger.testDatabase.name);
      expect(await differences()).toHaveLength(1);
      const reports = Promise.all(Array.from({ length: 20 }, () => tenant.settle([{ keyId: tenant.keyId, costMicros: 3 }])));
      expect(await repairBalances(server.ledger.database, {})).toMatchObject({ repaired: 1 });
      await reports;
      expect(await differences()).toEqual([]);
    }
    expect(await tenant.balance()).toMatchObject({ micros: UNIT - 1000 - 60 * 3 });
    expect(done(await server.ledger.balances.addFunds(null, { organizationId: tenant.id, micros: 1 }))).toMatchObject({ kind: 'done' });
    expect(await differences()).toEqual([]);
  });
});
