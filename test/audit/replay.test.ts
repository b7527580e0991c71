import { afterAll, beforeAll, expect, test } from 'vitest';

import { replay, type Replay } from '../../src/audit/replay.ts';
import { loadKey } from '../../src/commands/key-commands.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';

let ledger: TestLedger;

beforeAll(async () => {
  ledger = await openTestLedger();
});

afterAll(async () => {
  await ledger.close();
});

const statusOf = (history: Replay | null): unknown => (history?.state as { readonly status: string } | null | undefined)?.status;

test('7.2 a key replayed to any of its positions is what it was then, and the timeline says what changed', async () => {
  const { keys, owner, db } = ledger;
  const { keyId } = await ledger.newKey({ name: 'first name', expiresAt: '2999-01-01T00:00:00Z', ipAllowlist: ['10.0.0.0/8'] });
  done(await keys.update(owner, { id: keyId, name: 'second name', permissions: ['read:a', 'read:b'], expiresAt: null }));
  done(await keys.regenerate(owner, { id: keyId, overlapUntil: '2999-01-01T00:00:00Z' }));
  done(await keys.deactivate(owner, { id: keyId }));
  done(await keys.activate(owner, { id: keyId }));
  done(await keys.delete(owner, { id: keyId, confirmName: 'second name' }));
  const history = await replay(db, { kind: 'key', id: keyId });
  expect(history?.events.map(({ type }) => type)).toEqual(['KeyCreated', 'Updated', 'Regenerated', 'Deactivated', 'Activated', 'Deleted']);
  expect(history?.events[1]?.changes).toEqual([
    'name: "first name" → "second name"',
    'permissions: none → read:a, read:b',
    'expiresAt: "2999-01-01T00:00:00.000Z" → none',
  ]);
  expect(history?.events[2]?.changes[1]).toBe('the secret before it works until 2999-01-01T00:00:00.000Z');
  const statuses: unknown[] = [];
  for (const { position } of history?.events ?? []) {
    const then = await replay(db, { kind: 'key', id: keyId }, { position: BigInt(position) });
    expect(then?.events.at(-1)?.position).toBe(position);
    statuses.push(statusOf(then));
  }
  expect(statuses).toEqual(['ACTIVE', 'ACTIVE', 'ACTIVE', 'INACTIVE', 'ACTIVE', 'DELETED']);
  const { state } = await loadKey(db, ledger.organization.id, keyId);
  expect(history?.state).toMatchObject({ name: state.kind === 'absent' ? '' : state.settings.name, status: 'DELETED' });
});

test('expiry is told for the moment asked for, whatever the log had recorded by then', async () => {
  const expiresAt = new Date(Date.now() + 3_600_000);
  const { keyId } = await ledger.newKey({ expiresAt: expiresAt.toISOString() });
  const statusAt = async (ms: number) =>
    statusOf(await replay(ledger.db, { kind: 'key', id: keyId }, { at: new Date(expiresAt.getTime() + ms) }));
  expect(await statusAt(-1)).toBe('ACTIVE');
  expect(await statusAt(0)).toBe('EXPIRED');
});

test('7.2 an organization is replayed with its members, tokens and keys, and without those of others', async () => {
  const { organizations, tokens, keys } = ledger;
  const { id, owner } = await ledger.newOrganization('Replayed');
  const member = done(await organizations.addMember(owner, { organizationId: id, role: 'MEMBER', name: 'Jo' })).result.memberId;
  const token = done(
    await tokens.create(owner, { organizationId: id, name: 'gateway', permissions: ['keys:verify'], expiresAt: '2999-01-01T00:00:00Z' }),
  );
  const key = await ledger.newKey({ name: 'their key' }, owner);
  const before = key.position;
  done(await organizations.changeMemberRole(owner, { id: member, role: 'ADMIN' }));
  done(await organizations.removeMember(owner, { id: member }));
  done(await tokens.revoke(owner, { id: token.result.tokenId }));
  done(await keys.deactivate(owner, { id: key.keyId }));
  done(await organizations.rename(owner, { organizationId: id, name: 'Renamed' }));
  const subject = { kind: 'organization', id } as const;
  const now = await replay(ledger.db, subject);
  expect(now?.state).toMatchObject({
    name: 'Renamed',
    members: [{ id: owner.memberId, role: 'OWNER' }],
    tokens: [
      { name: 'First owner', status: 'ACTIVE' },
      { id: token.result.tokenId, status: 'REVOKED' },
    ],
    keys: [{ id: key.keyId, name: 'their key', status: 'INACTIVE' }],
  });
  expect(now?.events.map(({ changes }) => changes[0])).toEqual([
    'organization "Replayed" created, on plan ENTERPRISE',
    `member ${owner.memberId} added as OWNER`,
    `access token "First owner" issued to member ${owner.memberId}`,
    `member ${member} added as MEMBER`,
    'access token "gateway" issued to a service',
    expect.stringContaining('SECRET key "their key" created') as string,
    `member ${member} made ADMIN`,
    `member ${member} removed`,
    `membership of member ${member} ended, for what depends on the person`,
    'access token revoked',
    'key deactivated',
    'organization renamed to "Renamed"',
  ]);
  // The log holds ids, not people.
  expect(JSON.stringify(now)).not.toContain('Jo"');
  const then = await replay(ledger.db, subject, { position: before });
  expect(then?.state).toMatchObject({
    name: 'Replayed',
    members: [{ role: 'OWNER' }, { id: member, role: 'MEMBER' }],
    tokens: [{ status: 'ACTIVE' }, { status: 'ACTIVE' }],
    keys: [{ status: 'ACTIVE' }],
  });
});

test('before it began a subject has no state, and one that never was has no history', async () => {
  const { keyId, position } = await ledger.newKey();
  expect(await replay(ledger.db, { kind: 'key', id: keyId }, { position: position - 1n })).toMatchObject({ events: [], state: null });
  expect(await replay(ledger.db, { kind: 'key', id: '00000000-0000-7000-8000-000000000000' })).toBeNull();
});
