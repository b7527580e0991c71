import { createHash, randomBytes } from 'node:crypto';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { check } from '../../src/audit/check.ts';
import type { Finding } from '../../src/audit/finding.ts';
import { encodeGlobalId } from '../../src/graphql/global-id.ts';
import { createPeppers, fastVerifier } from '../../src/identity/pepper.ts';
import { at, listAt, textAt } from '../graphql/at.ts';
import { eventually, openTestGraphql, randomName, type TestGraphql } from '../graphql/graphql-server.ts';
import { openDataPlane, type DataPlane } from '../http/data-plane.ts';
import { done, member, openTestLedger } from '../support/ledger.ts';

const IMPORT = `mutation ($input: ImportApiKeysInput!) { importApiKeys(input: $input) { __typename
  ... on ImportApiKeysPayload { position apiKeys { id keyId name type status masked permissions category quotas { window limit } } }
  ... on UserError { code message } ... on InvalidInput { field } ... on NameTaken { field } ... on AlreadyImported { field } ... on PermissionNotPublic { field } ... on NotFound { field } ... on KeyArchived { field } } }`;
const REGENERATE = `mutation ($input: RegenerateApiKeyInput!) { regenerateApiKey(input: $input) { ... on RegenerateApiKeyPayload { secret apiKey { masked } } ... on UserError { code } } }`;
const DELETE = `mutation ($input: DeleteApiKeyInput!) { deleteApiKey(input: $input) { __typename ... on UserError { code } } }`;

const sha256 = (text: string, encoding: 'hex' | 'base64' | 'base64url' = 'hex') => createHash('sha256').update(text).digest(encoding);
/** As Unkey makes them: a prefix and 16 random bytes. */
const unkey = () => `unkey_${randomBytes(16).toString('base64url').replaceAll('-', 'x')}`;
/** As better-auth's plugin makes them: 64 letters. */
const betterAuth = () => Array.from(randomBytes(64), (byte) => String.fromCodePoint((byte % 2 === 0 ? 65 : 97) + (byte % 26))).join('');

describe('import of keys that were made elsewhere', () => {
  let server: TestGraphql;
  let plane: DataPlane;
  let gateway: string;
  beforeAll(async () => {
    server = await openTestGraphql();
    plane = await openDataPlane({ on: server.ledger });
    gateway = (await server.tokenOf({ permissions: ['keys:verify'] })).token;
  });
  afterAll(async () => {
    await plane.close();
    await server.close();
  });

  const importKeys = async (
    keys: readonly object[],
    more: object = {},
    token = server.ownerToken,
    organizationId = server.organizationId,
  ) => at(await server.query(IMPORT, { input: { organizationId, keys, ...more } }, token), 'data.importApiKeys');
  const verify = async (key: string, more: object = {}, token = gateway) =>
    (await plane.post('/v1/verify', { key, ...more }, { token })).body;
  const verifierOf = async (keyId: string) => {
    const { rows } = await sql<{ argon2: string; pepper_id: string }>`
      SELECT v.argon2, v.pepper_id FROM key_verifiers v WHERE v.key_id = ${keyId} AND v.current`.execute(server.ledger.db);
    return rows[0];
  };
  const findings = async (): Promise<readonly Finding[]> => {
    const found: Finding[] = [];
    await check(server.ledger.database, { onFinding: (finding) => found.push(finding), onProgress: () => undefined });
    return found;
  };
  const adopted = (keyId: string) =>
    eventually('the verifier is argon2id', async () => (await verifierOf(keyId))?.argon2.startsWith('$argon2id$') === true);

  it('lets clients go on with the secrets that they have, by a hash in hex, base64 or base64url', async () => {
    const secrets = [unkey(), betterAuth(), `sk_live_${randomBytes(12).toString('hex')}`, `päss${'x'.repeat(40)}`];
    const encodings = ['base64', 'base64url', 'hex', 'hex'] as const;
    const answer = await importKeys(
      secrets.map((secret, index) => ({
        name: `imported ${index}`,
        hash: sha256(secret, encodings[index]),
        start: secret.slice(0, 8).replace(/[^!-~]/g, ''),
        last4: secret.slice(-4),
        permissions: ['read'],
        category: 'staging',
        quotas: { daily: 100 },
        metadata: { index },
      })),
    );
    expect(answer).toMatchObject({ __typename: 'ImportApiKeysPayload' });
    const keys = listAt(answer, 'apiKeys');
    expect(keys).toHaveLength(4);
    expect(keys[0]).toMatchObject({ name: 'imported 0', type: 'SECRET', status: 'ACTIVE', category: 'staging', permissions: ['read'] });
    expect(textAt(keys[0], 'masked')).toBe(`${secrets[0]?.slice(0, 8)}...${secrets[0]?.slice(-4)}`);
    for (const [index, secret] of secrets.slice(0, 3).entries()) {
      const first = await verify(secret, { permissions: ['read'] });
      expect(first).toMatchObject({
        valid: true,
        key: { id: textAt(keys[index], 'keyId'), name: `imported ${index}`, metadata: { index }, outdatedSecret: false },
      });
      expect(first['quotas']).toEqual([{ window: 'DAILY', limit: 100, remaining: 99 }]);
      expect(await verify(secret, { permissions: ['write'] })).toMatchObject({ code: 'PERMISSION_DENIED' });
    }
    // No key of ours was ever so, and none of the products makes such keys: what is not printable ASCII is not looked for.
    expect(await verify(secrets[3] ?? '')).toMatchObject({ code: 'INVALID_KEY' });
    for (const wrong of [`${secrets[0]}x`, secrets[0]?.toUpperCase() ?? '', sha256(secrets[0] ?? ''), '', 'unkey_', 'x'.repeat(512)])
      expect(await verify(wrong)).toMatchObject({ code: 'INVALID_KEY', message: 'Invalid API Key' });
  });

  it('gives a key a verifier of ours at its first use at once, and an argon2id one behind it, which check finds right before and after', async () => {
    const secret = unkey();
    const [key] = listAt(await importKeys([{ name: randomName(), hash: sha256(secret) }]), 'apiKeys');
    const keyId = textAt(key, 'keyId');
    expect(await verifierOf(keyId)).toMatchObject({ pepper_id: '' });
    expect(await findings()).toEqual([]);
    // Fifty at once: all of them pass, and each is one request.
    const answers = await Promise.all(Array.from({ length: 50 }, () => verify(secret)));
    expect(new Set(answers.map(({ code }) => code))).toEqual(new Set(['VALID']));
    expect((await verifierOf(keyId))?.pepper_id).toBe('p1');
    await adopted(keyId);
    expect(await verify(secret)).toMatchObject({ valid: true });
    expect(await findings().then((found) => found.filter(({ subject }) => subject.includes(keyId)))).toEqual([]);
    const { rows } = await sql<{
      type: string;
      data: Record<string, unknown>;
    }>`SELECT type, data FROM events WHERE stream = ${`key:${keyId}`} ORDER BY version`.execute(server.ledger.db);
    expect(rows.map(({ type }) => type)).toEqual(['KeyImported', 'VerifierReplaced']);
    // Neither the secret nor its hash is in the log.
    const log = JSON.stringify(rows);
    for (const text of [secret, sha256(secret), sha256(secret, 'base64'), sha256(secret, 'base64url')]) expect(log).not.toContain(text);
    // A verifier that somebody exchanged shows.
    await sql`UPDATE key_verifiers SET argon2 = replace(argon2, 'argon2id', 'argon2i') WHERE key_id = ${keyId}`.execute(server.ledger.db);
    expect(await findings()).toMatchObject([{ kind: 'verifier-differs' }]);
    await sql`UPDATE key_verifiers SET argon2 = replace(argon2, 'argon2i', 'argon2id') WHERE key_id = ${keyId}`.execute(server.ledger.db);
  });

  it('survives a change of peppers, used or not, and a server that ended before argon2id came', async () => {
    const [used, unused] = [unkey(), betterAuth()];
    const [first] = listAt(
      await importKeys([
        { name: randomName(), hash: sha256(used) },
        { name: randomName(), hash: sha256(unused) },
      ]),
      'apiKeys',
    );
    const keyId = textAt(first, 'keyId');
    expect(await verify(used)).toMatchObject({ valid: true });
    await adopted(keyId);
    // Another server with a pepper of its own, and none of the old ones.
    const other = await openTestLedger({ on: server.ledger, peppers: createPeppers([{ id: 'p2', key: randomBytes(32) }]) });
    try {
      expect(await other.verify(used)).toMatchObject({ code: 'VALID' });
      expect(await other.verify(unused)).toMatchObject({ code: 'VALID' });
      expect(await other.verify(`${used}x`)).toMatchObject({ code: 'INVALID_KEY' });
      expect(await verifierOf(keyId)).toMatchObject({ pepper_id: 'p2' });
    } finally {
      await other.close();
    }
    // As a server leaves it that is killed between the two: the next use brings it up again.
    const killed = unkey();
    const [half] = listAt(await importKeys([{ name: randomName(), hash: sha256(killed) }]), 'apiKeys');
    const halfId = textAt(half, 'keyId');
    const { current } = server.ledger.peppers;
    await sql`UPDATE key_verifiers SET pepper_id = ${current.id}, mac = decode(${fastVerifier(current, killed)}, 'hex') WHERE key_id = ${halfId}`.execute(
      server.ledger.db,
    );
    expect((await verifierOf(halfId))?.argon2).toMatch(/^\$imported-sha256\$/);
    expect(await verify(killed)).toMatchObject({ valid: true });
    await adopted(halfId);
  });

  it('counts bogus keys of any form against their address', async () => {
    const secret = unkey();
    await importKeys([{ name: randomName(), hash: sha256(secret) }]);
    for (let attempt = 0; attempt < 20; attempt++)
      expect(await verify(unkey(), { ip: '198.51.100.7' })).toMatchObject({ code: 'INVALID_KEY' });
    expect(await verify(secret, { ip: '198.51.100.7' })).toMatchObject({ code: 'IP_BLOCKED' });
    expect(await verify(secret, { ip: '198.51.100.8' })).toMatchObject({ valid: true });
  });

  it('keeps organizations apart: each imports the same secret for itself, and finds its own', async () => {
    const other = await server.ledger.newOrganization('Other');
    const otherId = encodeGlobalId('Organization', other.id);
    const member = await server.tokenOf({ memberId: other.owner.memberId }, other.id);
    const otherGateway = await server.tokenOf({ permissions: ['keys:verify'] }, other.id);
    const secret = betterAuth();
    const key = { name: randomName(), hash: sha256(secret) };
    const [own] = listAt(await importKeys([key]), 'apiKeys');
    expect(await verify(secret, {}, otherGateway.token)).toMatchObject({ code: 'INVALID_KEY' });
    const [theirs] = listAt(await importKeys([key], {}, member.token, otherId), 'apiKeys');
    expect(await verify(secret)).toMatchObject({ valid: true, key: { id: textAt(own, 'keyId') } });
    expect(await verify(secret, {}, otherGateway.token)).toMatchObject({ valid: true, key: { id: textAt(theirs, 'keyId') } });
    // By the organization of a member's session, too, which is how verifyApiKey asks.
    expect(await server.ledger.verify(secret, {}, other.id)).toMatchObject({ keyId: textAt(theirs, 'keyId') });
    expect(await importKeys([key], {}, member.token)).toMatchObject({ code: 'NOT_FOUND' });
  });

  it('ends with regeneration, which makes it a key like any other, and with deletion; a hash does not come back', async () => {
    const secret = unkey();
    const name = randomName();
    const key = { name, hash: sha256(secret) };
    const [imported] = listAt(await importKeys([key]), 'apiKeys');
    const id = textAt(imported, 'id');
    expect(await verify(secret)).toMatchObject({ valid: true });
    const regenerated = at(await server.query(REGENERATE, { input: { id } }), 'data.regenerateApiKey');
    expect(textAt(regenerated, 'secret')).toMatch(/^sk_live_/);
    expect(await verify(textAt(regenerated, 'secret'))).toMatchObject({ valid: true, key: { id: textAt(imported, 'keyId') } });
    expect(await verify(secret)).toMatchObject({ code: 'INVALID_KEY' });
    expect(await importKeys([{ ...key, name: randomName() }])).toMatchObject({ code: 'ALREADY_IMPORTED', field: 'keys.0.hash' });

    const overlapping = unkey();
    const [second] = listAt(await importKeys([{ name: randomName(), hash: sha256(overlapping) }]), 'apiKeys');
    await server.query(REGENERATE, { input: { id: textAt(second, 'id'), overlapUntil: new Date(Date.now() + 60_000).toISOString() } });
    expect(await verify(overlapping)).toMatchObject({ valid: true, key: { outdatedSecret: true } });

    const deleted = betterAuth();
    const gone = { name: randomName(), hash: sha256(deleted) };
    const [third] = listAt(await importKeys([gone]), 'apiKeys');
    expect(
      at(await server.query(DELETE, { input: { id: textAt(third, 'id'), confirmName: gone.name } }), 'data.deleteApiKey.__typename'),
    ).toBe('DeleteApiKeyPayload');
    expect(await verify(deleted)).toMatchObject({ code: 'INVALID_KEY' });
    expect(await importKeys([gone])).toMatchObject({ code: 'ALREADY_IMPORTED' });
  });

  it('is all or none, once an idempotency key, and says which key of the batch is at fault', async () => {
    const batch = Array.from({ length: 100 }, () => ({ name: randomName(), hash: sha256(unkey()) }));
    const first = await importKeys(batch, { idempotencyKey: 'batch' });
    expect(listAt(first, 'apiKeys')).toHaveLength(100);
    expect(await importKeys(batch, { idempotencyKey: 'batch' })).toEqual(first);
    expect(await importKeys(batch.slice(1), { idempotencyKey: 'batch' })).toMatchObject({ code: 'IDEMPOTENCY_CONFLICT' });
    const fresh = () => ({ name: randomName(), hash: sha256(unkey()) });
    const good = fresh();
    const twin = fresh();
    for (const [keys, code, field] of [
      [[], 'INVALID_INPUT', 'keys'],
      [Array.from({ length: 101 }, fresh), 'INVALID_INPUT', 'keys'],
      [[good, { ...fresh(), hash: 'x' }], 'INVALID_INPUT', 'keys.1.hash'],
      [[good, { ...fresh(), hash: `${'A'.repeat(42)}B` }], 'INVALID_INPUT', 'keys.1.hash'],
      [[good, { ...fresh(), hash: `${'é'.repeat(43)}` }], 'INVALID_INPUT', 'keys.1.hash'],
      [[good, { ...fresh(), name: 'ab' }], 'INVALID_INPUT', 'keys.1.name'],
      [[good, { ...fresh(), start: 'thirteenchars' }], 'INVALID_INPUT', 'keys.1.start'],
      [[good, { ...fresh(), last4: '\u0000' }], 'INVALID_INPUT', 'keys.1.last4'],
      [[good, { ...fresh(), expiresAt: '2020-01-01T00:00:00Z' }], 'INVALID_INPUT', 'keys.1.expiresAt'],
      [[twin, { ...fresh(), name: twin.name.toUpperCase() }], 'INVALID_INPUT', 'keys.1.name'],
      [[twin, { ...fresh(), hash: twin.hash.toUpperCase() }], 'INVALID_INPUT', 'keys.1.hash'],
      [[good, { ...fresh(), name: batch[3]?.name }], 'NAME_TAKEN', 'keys.1.name'],
      [[good, { ...fresh(), hash: batch[3]?.hash }], 'ALREADY_IMPORTED', 'keys.1.hash'],
    ] as const)
      expect(await importKeys(keys)).toMatchObject({ code, field, message: expect.stringContaining(`'${field}': `) as string });
    // Nothing of those was written: the good one can still be imported. One that is disabled comes in deactivated.
    expect(listAt(await importKeys([{ ...good, enabled: false }]), 'apiKeys')).toMatchObject([{ status: 'INACTIVE' }]);
    // Two of the same at once: one wins.
    const racing = await Promise.all(Array.from({ length: 5 }, () => importKeys([{ ...twin, name: randomName() }])));
    expect(racing.filter((answer) => textAt(answer, '__typename') === 'ImportApiKeysPayload')).toHaveLength(1);
    expect(racing.filter((answer) => at(answer, 'code') === 'ALREADY_IMPORTED')).toHaveLength(4);
    expect(await findings()).toEqual([]);
  });

  it('1.6 gives imported keys a profile of the organization, and hands its settings over at their first use', async () => {
    const create = `mutation ($input: CreateProfileInput!) { createProfile(input: $input) { ... on CreateProfilePayload { profile { id } } } }`;
    const profile = async (token: string, organizationId: string) =>
      textAt(
        await server.query(create, { input: { organizationId, name: randomName(), settings: { tier: 'gold' } } }, token),
        'data.createProfile.profile.id',
      );
    const profileId = await profile(server.ownerToken, server.organizationId);
    const secret = unkey();
    const key = () => ({ name: randomName(), hash: sha256(unkey()) });
    expect(
      await importKeys([
        { name: randomName(), hash: sha256(secret), profileId },
        { ...key(), profileId: null },
      ]),
    ).toMatchObject({
      __typename: 'ImportApiKeysPayload',
    });
    expect(await verify(secret)).toMatchObject({ valid: true, key: { profile: { settings: { tier: 'gold' } } } });
    const other = await server.ledger.newOrganization('Its profile');
    const { token } = await server.tokenOf({ memberId: other.owner.memberId }, other.id);
    const foreign = await profile(token, encodeGlobalId('Organization', other.id));
    for (const [wrong, code] of [
      [foreign, 'NOT_FOUND'],
      [encodeGlobalId('Profile', '01890000-0000-7000-8000-000000000000'), 'NOT_FOUND'],
      [server.organizationId, 'INVALID_INPUT'],
      ['gold', 'INVALID_INPUT'],
    ])
      expect(await importKeys([key(), { ...key(), profileId: wrong }])).toMatchObject({ code, field: 'keys.1.profileId' });
    expect(await findings()).toEqual([]);
  });

  it('3.2 makes imported keys the personal ones of members, archived like any others, and refuses them for who belongs to a team', async () => {
    const [alice, bob] = [await server.newMember('MEMBER'), await server.newMember('MEMBER')];
    const idOf = (memberId: string, organizationId = server.ledger.organization.id) =>
      encodeGlobalId('Member', `${organizationId}:${memberId}`);
    const owned = (memberId: string, secret = unkey()) => ({ name: randomName(), hash: sha256(secret), ownerId: idOf(memberId) });
    const secrets = [unkey(), unkey(), betterAuth()];
    const [first] = listAt(
      await importKeys([owned(alice.memberId, secrets[0]), owned(alice.memberId, secrets[1]), owned(bob.memberId, secrets[2])]),
      'apiKeys',
    );
    for (const secret of secrets) expect(await verify(secret)).toMatchObject({ valid: true });
    expect(await verify(secrets[0] ?? '')).toMatchObject({ key: { id: textAt(first, 'keyId'), ownerId: alice.memberId } });
    const { organizations, owner } = server.ledger;
    const team = done(await organizations.create(null, { name: 'The team', team: true })).result;
    const teamOwner = member(team.organizationId, team.memberId ?? '', 'OWNER');
    const consent = await organizations.createJoinCode(member(owner.organizationId, alice.memberId, 'MEMBER'), {
      organizationId: team.organizationId,
    });
    const joinCode = done(consent).secret?.reveal();
    const joined = done(await organizations.addMember(teamOwner, { organizationId: team.organizationId, role: 'MEMBER', joinCode })).result;
    expect([await verify(secrets[0] ?? ''), await verify(secrets[1] ?? ''), await verify(secrets[2] ?? '')]).toMatchObject([
      { code: 'INACTIVE' },
      { code: 'INACTIVE' },
      { valid: true },
    ]);
    expect(await importKeys([owned(bob.memberId), owned(alice.memberId)])).toMatchObject({ code: 'KEY_ARCHIVED', field: 'keys.1.ownerId' });
    done(await organizations.removeMember(teamOwner, { id: joined.memberId }));
    expect(await verify(secrets[1] ?? '')).toMatchObject({ valid: true });
    done(await organizations.removeMember(owner, { id: bob.memberId }));
    for (const [ownerId, code] of [
      [idOf(bob.memberId), 'NOT_FOUND'],
      [idOf(alice.memberId, team.organizationId), 'NOT_FOUND'],
      [encodeGlobalId('Profile', alice.memberId), 'INVALID_INPUT'],
    ])
      expect(await importKeys([{ ...owned(alice.memberId), ownerId }])).toMatchObject({ code, field: 'keys.0.ownerId' });
    // Personal keys of one's own are created, not imported: importing is for who manages all keys.
    expect(
      (await server.query(IMPORT, { input: { organizationId: server.organizationId, keys: [owned(alice.memberId)] } }, alice.token)).errors,
    ).toMatchObject([{ extensions: { code: 'FORBIDDEN' } }]);
    expect(await findings()).toEqual([]);
  });

  it('2.9 counts each imported key as a key operation', async () => {
    const limited = await openTestLedger({ on: server.ledger, keyOperationsPerHour: 3 });
    try {
      const { memberId } = await server.newMember('ADMIN');
      const actor = { ...server.ledger.owner, id: `member:${memberId}`, memberId };
      const keys = (count: number) => ({
        organizationId: server.ledger.organization.id,
        keys: Array.from({ length: count }, () => ({ name: randomName(), hash: sha256(unkey()) })),
      });
      await expect(limited.imports.importKeys(actor, keys(4))).rejects.toThrow('3 keys');
      expect(await limited.imports.importKeys(actor, keys(2))).toMatchObject({ kind: 'done' });
      await expect(limited.imports.importKeys(actor, keys(2))).rejects.toThrow('3 keys');
      // The command line is the operator's, and imports a hundred at a time.
      expect(await limited.imports.importKeys(null, keys(100))).toMatchObject({ kind: 'done' });
    } finally {
      await limited.close();
    }
    expect(server.ledger.errors).toEqual([]);
  });
});
