import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { KeyOperationLimitError } from '../../src/ledger/run-command.ts';
import { asAdmin } from '../support/database.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';

describe('commands on the log', () => {
  let ledger: TestLedger;
  let other: TestLedger;
  beforeAll(async () => {
    ledger = await openTestLedger();
    other = await openTestLedger({ on: ledger });
  });
  afterAll(async () => {
    await other.close();
    await ledger.close();
  });

  const versionsOf = async (keyId: string) =>
    (
      await ledger.db
        .selectFrom('events')
        .select(['version', 'type', 'data'])
        .where('stream', '=', `key:${keyId}`)
        .orderBy('version')
        .execute()
    ).map((row) => row);

  it('loses none of 50 concurrent updates of one key from two servers, and leaves no gap in its versions', async () => {
    const { keyId } = await ledger.newKey();
    const outcomes = await Promise.all(
      Array.from({ length: 50 }, (_, index) =>
        (index % 2 === 0 ? ledger : other).keys.update(ledger.owner, { id: keyId, metadata: { update: index } }),
      ),
    );
    outcomes.forEach(done);
    const events = await versionsOf(keyId);
    expect(events.map((event) => event.version)).toEqual(Array.from({ length: 51 }, (_, index) => index + 1));
    const updates = events.slice(1).map((event) => (event.data as { metadata: { update: number } }).metadata.update);
    expect(new Set(updates).size).toBe(50);
    const row = await ledger.db.selectFrom('api_keys').select(['version', 'metadata']).where('id', '=', keyId).executeTakeFirstOrThrow();
    expect(row).toEqual({ version: 51, metadata: { update: updates.at(-1) } });
  });

  it('2.8 takes 50 retries with one idempotency key, on two servers, as one request and tells each what it did', async () => {
    const input = { organizationId: ledger.organization.id, type: 'SECRET', name: 'Created once', idempotencyKey: 'the-same' };
    const outcomes = (
      await Promise.all(Array.from({ length: 50 }, (_, index) => (index % 2 === 0 ? ledger : other).keys.create(ledger.owner, input)))
    ).map(done);
    expect(new Set(outcomes.map((outcome) => outcome.result.keyId)).size).toBe(1);
    expect(new Set(outcomes.map((outcome) => outcome.position)).size).toBe(1);
    expect(new Set(outcomes.map((outcome) => outcome.secret?.reveal())).size).toBe(1);
    expect(outcomes.filter((outcome) => !outcome.replayed)).toHaveLength(1);
    const created = await ledger.db
      .selectFrom('events')
      .select('position')
      .where('type', '=', 'KeyCreated')
      .where('stream', '=', `key:${outcomes[0]?.result.keyId}`)
      .execute();
    expect(created).toHaveLength(1);
    expect(await ledger.verify(outcomes[7]?.secret?.reveal() ?? '')).toMatchObject({ code: 'VALID' });
  });

  it('refuses an idempotency key that stood for another input, and scopes it to its actor', async () => {
    const input = { organizationId: ledger.organization.id, type: 'SECRET', name: 'Idempotent A', idempotencyKey: 'reused' };
    done(await ledger.keys.create(ledger.owner, input));
    expect(await ledger.keys.create(ledger.owner, { ...input, name: 'Idempotent B' })).toMatchObject({
      code: 'IDEMPOTENCY_CONFLICT',
      field: 'idempotencyKey',
    });
    const admin = { ...ledger.owner, id: 'member:00000000-0000-4000-8000-000000000001' };
    expect(done(await ledger.keys.create(admin, { ...input, name: 'Idempotent B' }))).toMatchObject({ replayed: false });
  });

  it('keeps a replayed secret sealed: no table holds it, and the deletion of the key erases it', async () => {
    const input = { organizationId: ledger.organization.id, type: 'SECRET', name: 'Sealed', idempotencyKey: 'sealed-one' };
    const first = done(await ledger.keys.create(ledger.owner, input));
    const sealed = await ledger.db
      .selectFrom('idempotency')
      .select('sealed_secret')
      .where('subject_id', '=', first.result.keyId)
      .executeTakeFirstOrThrow();
    expect(sealed.sealed_secret?.toString('latin1')).not.toContain(first.secret?.reveal().slice(8));
    done(await ledger.keys.delete(ledger.owner, { id: first.result.keyId, confirmName: 'Sealed' }));
    expect(done(await ledger.keys.create(ledger.owner, input))).toMatchObject({
      replayed: true,
      secret: null,
      result: { keyId: first.result.keyId },
    });
  });

  it('appends nothing where the key already is as asked, and still answers a position', async () => {
    const { keyId, position } = await ledger.newKey();
    const before = await versionsOf(keyId);
    const outcome = done(await ledger.keys.activate(ledger.owner, { id: keyId }));
    expect(outcome.position).toBeGreaterThanOrEqual(position);
    expect(await versionsOf(keyId)).toEqual(before);
  });

  it('1.1 holds an organization to one key a name, in any case and form, until it is deleted', async () => {
    const { keyId } = await ledger.newKey({ name: 'Ｎame Taken' });
    const again = () => ledger.keys.create(ledger.owner, { organizationId: ledger.organization.id, type: 'SECRET', name: 'name taken' });
    expect(await again()).toMatchObject({ code: 'NAME_TAKEN', field: 'name' });
    const attempts = await Promise.all(
      Array.from({ length: 10 }, () =>
        ledger.keys.create(ledger.owner, { organizationId: ledger.organization.id, type: 'SECRET', name: 'Contested' }),
      ),
    );
    expect(attempts.filter((outcome) => outcome.kind === 'done')).toHaveLength(1);
    done(await ledger.keys.delete(ledger.owner, { id: keyId, confirmName: 'Ｎame Taken'.normalize('NFC') }));
    done(await again());
  });

  it('keeps the last owner', async () => {
    expect(await ledger.organizations.removeMember(ledger.owner, { id: ledger.owner.memberId })).toMatchObject({ code: 'LAST_OWNER' });
    const second = done(await ledger.organizations.addMember(ledger.owner, { organizationId: ledger.organization.id, role: 'OWNER' }))
      .result.memberId;
    const both = await Promise.all([
      ledger.organizations.changeMemberRole(ledger.owner, { id: ledger.owner.memberId, role: 'ADMIN' }),
      other.organizations.changeMemberRole(ledger.owner, { id: second, role: 'ADMIN' }),
    ]);
    expect(both.map((outcome) => (outcome.kind === 'done' ? 'done' : outcome.code)).sort()).toEqual(['LAST_OWNER', 'done']);
  });

  it('2.9 limits key operations of an actor exactly, however many arrive at once', async () => {
    const limited = await openTestLedger({ on: ledger, keyOperationsPerHour: 5 });
    const actor = { ...ledger.owner, id: 'member:00000000-0000-4000-8000-000000000002' };
    const attempts = await Promise.allSettled(
      Array.from({ length: 12 }, (_, index) =>
        limited.keys.create(actor, { organizationId: ledger.organization.id, type: 'SECRET', name: `limited ${index}` }),
      ),
    );
    expect(attempts.filter((attempt) => attempt.status === 'fulfilled')).toHaveLength(5);
    const refused = attempts.flatMap((attempt) => (attempt.status === 'rejected' ? [attempt.reason as unknown] : []));
    expect(refused.every((error) => error instanceof KeyOperationLimitError)).toBe(true);
    expect((refused[0] as KeyOperationLimitError).retryAfterSeconds).toBeGreaterThan(3500);
    await limited.close();
  });

  it('lets nobody change history: not the server by its grants, not the owner of the tables past the triggers', async () => {
    await ledger.verify((await ledger.newKey()).secret);
    for (const statement of [
      `UPDATE keyledger.events SET actor = 'nobody'`,
      `DELETE FROM keyledger.events`,
      `TRUNCATE keyledger.events CASCADE`,
      `UPDATE keyledger.usage_events SET credits = 0`,
      `DELETE FROM keyledger.usage_events`,
      `TRUNCATE keyledger.usage_events`,
      `TRUNCATE keyledger.usage_events_000000`,
    ]) {
      await expect(ledger.database.pool.query(statement), `as the server: ${statement}`).rejects.toMatchObject({ code: '42501' });
      const asOwner = asAdmin((admin) => admin.query(`SET session_replication_role = replica; ${statement}`), ledger.testDatabase.name);
      await expect(asOwner, `as the owner: ${statement}`).rejects.toThrow(/append-only/);
    }
  });
});
