import { sql } from 'kysely';
import { afterEach, expect, it } from 'vitest';

import type { VerifyCaller, VerifyRequest } from '../../src/admission/admission.ts';
import { accessTokenHash } from '../../src/identity/access-token.ts';
import { STREAM_KINDS } from '../../src/projections/state-fold.ts';
import { repairState } from '../../src/projections/state-repair.ts';
import { alterAdmit } from '../support/alter-admit.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';

const open: TestLedger[] = [];
afterEach(async () => {
  for (const ledger of open.splice(0).reverse()) await ledger.close();
});

async function openTwo() {
  const first = await openTestLedger();
  open.push(first);
  const second = await openTestLedger({ on: first });
  open.push(second);
  // What is asked for while a server is still connecting is not kept: the database may be another one by then.
  await expect.poll(() => second.admission.gauges.connected()).toBe(true);
  return { first, second };
}

type Asking = { readonly secret: string; readonly caller: VerifyCaller; readonly request?: Partial<VerifyRequest> };

async function ask(server: TestLedger, { secret, caller, request }: Asking): Promise<string> {
  const answer = await server.admission.verify(caller, {
    key: secret,
    permissions: [],
    cost: 1,
    endpoint: null,
    ip: null,
    origin: null,
    environment: null,
    requestId: null,
    ...request,
  });
  if (answer.kind !== 'answer') return answer.kind;
  return answer.key?.profile === null || answer.key === null
    ? answer.code
    : `${answer.code} ${JSON.stringify(answer.key.profile.settings)}`;
}

/**
 * Of all that a server keeps in memory: each change on the first server, and the very next verification on the second, which knew it otherwise. Nothing else is asked
 * meanwhile by which it could have learned of the change. Answers those that were not what the change made them.
 */
async function outdatedAnswers({ first, second }: { readonly first: TestLedger; readonly second: TestLedger }): Promise<readonly string[]> {
  const { owner, keys, tokens, organizations, profiles, balances } = first;
  const organizationId = owner.organizationId;
  const organization: VerifyCaller = { kind: 'organization', organizationId };
  const wrong: string[] = [];

  async function step(what: string, asking: Asking, change: () => Promise<unknown>, outcome: string): Promise<void> {
    await ask(second, asking);
    await change();
    const found = await ask(second, asking);
    if (found !== outcome) wrong.push(`${what}: ${found} instead of ${outcome}`);
  }

  const profile = done(await profiles.create(owner, { organizationId, name: 'tier', settings: { rate: 1 } })).result.profileId;
  const key = await first.newKey({ permissions: ['read'], profileId: profile });
  const valid = (rate: number) => `VALID {"rate":${rate}}`;
  const plain: Asking = { secret: key.secret, caller: organization };
  const { keyId: id } = key;
  await step('deactivate', plain, async () => done(await keys.deactivate(owner, { id })), 'INACTIVE');
  await step('activate', plain, async () => done(await keys.activate(owner, { id })), valid(1));
  await step('profile', plain, async () => done(await profiles.update(owner, { id: profile, settings: { rate: 2 } })), valid(2));
  await step('no profile', plain, async () => done(await keys.update(owner, { id, profileId: null })), 'VALID');
  const reading: Asking = { ...plain, request: { permissions: ['read'] } };
  await step('permissions', reading, async () => done(await keys.update(owner, { id, permissions: [] })), 'PERMISSION_DENIED');
  const near: Asking = { ...plain, request: { ip: '192.0.2.7' } };
  await step('addresses', near, async () => done(await keys.update(owner, { id, ipAllowlist: ['10.0.0.0/8'] })), 'IP_NOT_ALLOWED');
  await step('no addresses', near, async () => done(await keys.update(owner, { id, ipAllowlist: [] })), 'VALID');
  const from: Asking = { ...plain, request: { origin: 'https://a.example' } };
  const origins = ['https://b.example'];
  await step('origins', from, async () => done(await keys.update(owner, { id, allowedOrigins: origins })), 'ORIGIN_NOT_ALLOWED');
  await step('no origins', from, async () => done(await keys.update(owner, { id, allowedOrigins: [] })), 'VALID');
  const quotas = { total: 1, daily: null, weekly: null, monthly: null };
  await step('quota', plain, async () => done(await keys.update(owner, { id, quotas })), 'QUOTA_EXCEEDED');
  const unlimited = { total: null, daily: null, weekly: null, monthly: null };
  await step('no quota', plain, async () => done(await keys.update(owner, { id, quotas: unlimited })), 'VALID');
  await step('limit', plain, async () => done(await keys.update(owner, { id, limits: { requestsPerMinute: 1 } })), 'RATE_LIMITED');
  await step('no limit', plain, async () => done(await keys.update(owner, { id, limits: { requestsPerMinute: null } })), 'VALID');
  await step(
    'cap',
    plain,
    async () => done(await organizations.changePlan(null, { organizationId, plan: 'ENTERPRISE', caps: { requestsPerMinute: 1 } })),
    'RATE_LIMITED',
  );
  await step('no cap', plain, async () => done(await organizations.changePlan(null, { organizationId, plan: 'ENTERPRISE' })), 'VALID');

  const service = done(await tokens.create(owner, { organizationId, name: 'gateway', permissions: ['keys:verify'] }));
  const asService: Asking = { ...plain, caller: { kind: 'token', tokenHash: accessTokenHash(service.secret?.reveal() ?? '') } };
  await step('token', asService, async () => done(await tokens.revoke(owner, { id: service.result.tokenId })), 'unauthenticated');
  const { memberId } = done(await organizations.addMember(owner, { organizationId, role: 'ADMIN' })).result;
  const personal = done(await tokens.create(owner, { organizationId, name: 'of a member', memberId }));
  const asMember: Asking = { ...plain, caller: { kind: 'token', tokenHash: accessTokenHash(personal.secret?.reveal() ?? '') } };
  await step(
    'role',
    asMember,
    async () => done(await organizations.changeMemberRole(owner, { id: memberId, role: 'AUDITOR' })),
    'forbidden',
  );
  await step('member', asMember, async () => done(await organizations.removeMember(owner, { id: memberId })), 'unauthenticated');

  await step('regenerate', plain, async () => done(await keys.regenerate(owner, { id })), 'INVALID_KEY');
  const other = await first.newKey();
  await step(
    'delete',
    { ...plain, secret: other.secret },
    async () => done(await keys.delete(owner, { id: other.keyId, confirmName: await nameOf(first, other.keyId) })),
    'INVALID_KEY',
  );
  const last = await first.newKey();
  await step(
    'balance',
    { ...plain, secret: last.secret },
    async () => done(await balances.enable(null, { organizationId })),
    'INSUFFICIENT_BALANCE',
  );
  return wrong;
}

async function nameOf({ db }: TestLedger, id: string): Promise<string> {
  return (await db.selectFrom('api_keys').select('name').where('id', '=', id).executeTakeFirstOrThrow()).name;
}

it('2.1 3.5 whatever is changed on one server is known to the next verification of another, which had all of it in memory', async () => {
  expect(await outdatedAnswers(await openTwo())).toEqual([]);
});

it('the control: a server that does not compare its memory with the log is found', async () => {
  const two = await openTwo();
  await alterAdmit(two.first.testDatabase, 'IF stale THEN', 'stale := false; IF stale THEN');
  const wrong = await outdatedAnswers(two);
  // The rest it learns in time by chance: limits that refuse are read again, and what was just changed may have been forgotten.
  expect(wrong.map((text) => text.split(':')[0])).toEqual(
    expect.arrayContaining([
      'deactivate',
      'activate',
      'profile',
      'permissions',
      'addresses',
      'origins',
      'quota',
      'limit',
      'cap',
      'token',
      'member',
      'regenerate',
      'delete',
      'balance',
    ]),
  );
});

it('a row that was mended without an event is known to the next verification', async () => {
  const { first, second } = await openTwo();
  const { secret, keyId } = await first.newKey();
  await sql`UPDATE api_keys SET state = 'inactive' WHERE id = ${keyId}`.execute(first.db);
  const asking: Asking = { secret, caller: { kind: 'organization', organizationId: first.organization.id } };
  expect(await ask(second, asking)).toBe('INACTIVE');
  const { repaired } = await repairState(first.database, { kinds: STREAM_KINDS, onProgress: () => undefined });
  expect(repaired).toEqual([`api_keys ${keyId}`]);
  expect(await ask(second, asking)).toBe('VALID');
});

it('more changes than are worth telling one by one are known too, and what is new is known at once', async () => {
  const { first, second } = await openTwo();
  const { secret, keyId } = await first.newKey();
  const asking: Asking = { secret, caller: { kind: 'organization', organizationId: first.organization.id } };
  expect(await ask(second, asking)).toBe('VALID');
  done(await first.keys.deactivate(first.owner, { id: keyId }));
  await sql`
    SELECT append('system', array_agg(${first.organization.id}::uuid), array_agg('alert:' || gen_random_uuid()), array_agg(1), array_agg('AlertAcknowledged'::text), array_agg(1::smallint), array_agg('{}'::text), NULL)
    FROM generate_series(1, 10001)`.execute(first.db);
  expect(await ask(second, asking)).toBe('INACTIVE');
  const created = await first.newKey();
  expect(await ask(second, { ...asking, secret: created.secret })).toBe('VALID');
});

it('a key that expires is refused from that moment of the database on, though no event tells so', async () => {
  const { first, second } = await openTwo();
  const expiresAt = new Date(Date.now() + 300);
  const { secret } = await first.newKey({ expiresAt: expiresAt.toISOString() });
  const asking: Asking = { secret, caller: { kind: 'organization', organizationId: first.organization.id } };
  const found = new Set<string>();
  for (;;) {
    const before = Date.now();
    const outcome = await ask(second, asking);
    found.add(outcome);
    if (before >= expiresAt.getTime()) {
      expect(outcome).toBe('EXPIRED');
      break;
    }
    if (Date.now() < expiresAt.getTime()) expect(outcome).toBe('VALID');
  }
  expect(found).toEqual(new Set(['VALID', 'EXPIRED']));
});
