import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { readKeyPolicy, readUse } from '../../src/commands/key-policy.ts';
import { streamOf, type KeyEvent } from '../../src/domain/event.ts';
import { append, isOvertaken } from '../../src/ledger/append.ts';
import { KeyOperationLimitError } from '../../src/ledger/run-command.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';

type Settings = Readonly<Record<string, unknown>>;

describe('settings of an organization', () => {
  let ledger: TestLedger;
  let second: TestLedger;
  beforeAll(async () => {
    ledger = await openTestLedger({ keyOperationsPerHour: 4 });
    second = await openTestLedger({ on: ledger, keyOperationsPerHour: 4 });
  });
  afterAll(async () => {
    await second.close();
    await ledger.close();
  });

  /** An organization with settings, and no limit on its key operations unless they say so. */
  async function organizationWith(settings: Settings) {
    const { id, owner } = await ledger.newOrganization('With settings');
    const change = async (changes: Settings) => ledger.organizations.changeSettings(owner, { organizationId: id, ...changes });
    done(await change({ keyOperationsPerHour: 0, ...settings }));
    return { id, owner, change };
  }

  describe('2.6 the policy for deletion', () => {
    it('by default lets any key be deleted', async () => {
      const { owner } = await organizationWith({});
      const key = await ledger.newKey({ name: 'used key' }, owner);
      expect(await ledger.verify(key.secret, {}, owner.organizationId)).toMatchObject({ code: 'VALID' });
      done(await ledger.keys.delete(owner, { id: key.keyId, confirmName: 'used key' }));
    });

    it('refuses, where it says so, a key that was let through or reported as used, and says to deactivate it', async () => {
      const { id, owner, change } = await organizationWith({ deletionPolicy: 'UNUSED_KEYS' });
      const used = await ledger.newKey({ name: 'used key' }, owner);
      const reported = await ledger.newKey({ name: 'reported key' }, owner);
      const refusedOnly = await ledger.newKey({ name: 'refused key', permissions: [] }, owner);
      await ledger.verify(used.secret, {}, id);
      await ledger.verify(refusedOnly.secret, { permissions: ['admin'] }, id);
      await ledger.admission.recordUsage(id, [{ ...REPORT, keyId: reported.keyId }]);
      for (const [{ keyId }, confirmName] of [
        [used, 'used key'],
        [reported, 'reported key'],
      ] as const) {
        const refused = await second.keys.delete(owner, { id: keyId, confirmName });
        expect(refused).toMatchObject({ code: 'KEY_WAS_USED', message: expect.stringContaining('deactivate it instead') as string });
      }
      done(await second.keys.delete(owner, { id: refusedOnly.keyId, confirmName: 'refused key' }));
      done(await change({ deletionPolicy: 'ANY_KEY' }));
      done(await second.keys.delete(owner, { id: used.keyId, confirmName: 'used key' }));
    });

    it('deletes no key that is being used for the first time on another server', async () => {
      const { id, owner } = await organizationWith({ deletionPolicy: 'UNUSED_KEYS' });
      const keys = await Promise.all(Array.from({ length: 24 }, (_, index) => ledger.newKey({ name: `race ${index}` }, owner)));
      const outcomes = await Promise.all(
        keys.flatMap(({ keyId, secret }, index) => [
          ledger.verify(secret, {}, id).then(() => null),
          second.keys.delete(owner, { id: keyId, confirmName: `race ${index}` }),
        ]),
      );
      expect(
        outcomes
          .filter((outcome) => outcome?.kind === 'refusal')
          .every((outcome) => outcome?.kind === 'refusal' && outcome.code === 'KEY_WAS_USED'),
      ).toBe(true);
      expect(await usedBeforeDeletion(keys.map(({ keyId }) => keyId))).toEqual([]);
    });

    it('is looked at under the lock of the log; where it is not, the same check finds the key', async () => {
      const { id, owner } = await organizationWith({ deletionPolicy: 'UNUSED_KEYS' });
      const { keyId, secret } = await ledger.newKey({ name: 'overtaken' }, owner);
      const { number } = await ledger.db.selectFrom('api_keys').select('number').where('id', '=', keyId).executeTakeFirstOrThrow();
      const { used, upTo } = await readUse(ledger.db, number);
      expect(used).toBe(false);
      await ledger.verify(secret, {}, id);
      const deletion = {
        actorId: owner.id,
        streams: [
          { organizationId: id, stream: streamOf.key(keyId), version: 1, events: [{ type: 'Deleted', data: { name: 'overtaken' } }] },
        ],
        effects: [],
        keyOperationsPerHour: null,
      } as const;
      const overtaken = await append(ledger.db, { ...deletion, decidedOn: { streams: [], unused: { keyNumber: number, upTo } } }).catch(
        (error: unknown) => error,
      );
      expect(isOvertaken(overtaken)).toBe(true);
      await append(ledger.db, deletion);
      expect(await usedBeforeDeletion([keyId])).toEqual([keyId]);
    });

    /** Keys whose deletion stands in the log behind a use. */
    async function usedBeforeDeletion(keyIds: readonly string[]): Promise<readonly string[]> {
      const { rows } = await sql<{ id: string }>`
        SELECT DISTINCT k.id FROM api_keys k JOIN events e ON e.stream = 'key:' || k.id AND e.type = 'Deleted'
        JOIN usage_events u ON u.key = k.number AND u.code = 0 AND u.position < e.position
        WHERE k.id = ANY (${[...keyIds]}::uuid[])`.execute(ledger.db);
      return rows.map((row) => row.id);
    }
  });

  describe('1.2 what PUBLIC keys may carry', () => {
    const PUBLIC = { type: 'PUBLIC', permissions: ['read:experiences', 'write:consumers'] };

    it('is anything by default, and otherwise only what the settings name', async () => {
      const { owner, change } = await organizationWith({});
      const before = await ledger.newKey({ ...PUBLIC, name: 'before' }, owner);
      done(await change({ publicKeyPermissions: ['read:experiences'] }));
      const input = { organizationId: owner.organizationId, name: 'after', ...PUBLIC };
      expect(await second.keys.create(owner, input)).toMatchObject({
        code: 'PERMISSION_NOT_PUBLIC',
        field: 'permissions',
        message: 'Your organization does not allow PUBLIC keys to carry write:consumers; it allows read:experiences',
      });
      done(await second.keys.create(owner, { ...input, type: 'SECRET' }));
      const { result } = done(await second.keys.create(owner, { ...input, name: 'allowed', permissions: ['read:experiences'] }));
      expect(await second.keys.update(owner, { id: result.keyId, permissions: ['admin'] })).toMatchObject({
        code: 'PERMISSION_NOT_PUBLIC',
      });
      // What a key carries already is not taken from it by a change of something else.
      done(await second.keys.update(owner, { id: before.keyId, category: 'web' }));
      done(await second.keys.update(owner, { id: before.keyId, permissions: PUBLIC.permissions }));
      expect(await second.keys.update(owner, { id: before.keyId, permissions: ['write:consumers'] })).toMatchObject({ kind: 'refusal' });
      done(await change({ publicKeyPermissions: null }));
      done(await second.keys.update(owner, { id: before.keyId, permissions: ['admin'] }));
    });

    it('holds for every key of the log, however settings and keys are changed at once on two servers', async () => {
      const { id, owner, change } = await organizationWith({});
      const settings = async (): Promise<void> => {
        for (let round = 0; round < 12; round++) done(await change({ publicKeyPermissions: round % 2 === 0 ? [] : null }));
      };
      const keys = async (server: TestLedger, name: string): Promise<number> => {
        let refused = 0;
        for (let round = 0; round < 10; round++) {
          const outcome = await server.keys.create(owner, { organizationId: id, ...PUBLIC, name: `${name} ${round}` });
          if (outcome.kind === 'refusal') refused++;
        }
        return refused;
      };
      await Promise.all([settings(), keys(ledger, 'first'), keys(second, 'second'), keys(ledger, 'third')]);
      expect(await forbiddenInLog(id)).toBe(0);
    });

    it('is decided on one version of the settings; where that is not looked at, the same check finds the key', async () => {
      const { id, owner, change } = await organizationWith({});
      const policy = await readKeyPolicy(ledger.db, id);
      done(await change({ publicKeyPermissions: [] }));
      const keyId = crypto.randomUUID();
      const creation = {
        actorId: owner.id,
        streams: [
          { organizationId: id, stream: streamOf.key(keyId), version: 0, events: [{ type: 'KeyCreated', data: { ...KEY_FACTS, keyId } }] },
        ],
        effects: [],
        keyOperationsPerHour: null,
      } as const;
      const overtaken = await append(ledger.db, { ...creation, decidedOn: { streams: policy.decidedOn } }).catch((error: unknown) => error);
      expect(isOvertaken(overtaken)).toBe(true);
      expect(await forbiddenInLog(id)).toBe(0);
      await append(ledger.db, creation);
      expect(await forbiddenInLog(id)).toBe(1);
    });

    /** PUBLIC keys that were created with permissions while the newest settings before them in the log allowed none. */
    async function forbiddenInLog(organizationId: string): Promise<number> {
      const { rows } = await sql<{ count: number }>`
        SELECT count(*)::integer AS count FROM events k
        CROSS JOIN LATERAL (
          SELECT s.data -> 'publicKeyPermissions' AS allowed FROM events s
          WHERE s.stream = ${streamOf.organization(organizationId)} AND s.type = 'OrganizationSettingsChanged' AND s.position < k.position
            AND s.data -> 'publicKeyPermissions' IS NOT NULL
          ORDER BY s.position DESC LIMIT 1) AS now
        WHERE k.organization_id = ${organizationId}::uuid AND k.type = 'KeyCreated' AND k.data ->> 'type' = 'PUBLIC'
          AND json_array_length(k.data -> 'permissions') > 0 AND now.allowed::text = '[]'`.execute(ledger.db);
      return rows[0]?.count ?? -1;
    }
  });

  describe('2.9 key operations per hour', () => {
    it("are the server's until the organization says otherwise, and count what was done before", async () => {
      const { id, owner } = await ledger.newOrganization('Busy');
      const create = (server: TestLedger, name: string) => server.keys.create(owner, { organizationId: id, type: 'SECRET', name });
      for (let index = 0; index < 4; index++) done(await create(index % 2 === 0 ? ledger : second, `key ${index}`));
      await expect(create(second, 'one more')).rejects.toThrow(KeyOperationLimitError);
      done(await ledger.organizations.changeSettings(owner, { organizationId: id, keyOperationsPerHour: 6 }));
      const { result } = done(await create(second, 'fifth'));
      done(await second.keys.regenerate(owner, { id: result.keyId }));
      await expect(second.keys.regenerate(owner, { id: result.keyId })).rejects.toThrow(
        'At most 6 keys can be created or regenerated per hour',
      );
      done(await ledger.organizations.changeSettings(owner, { organizationId: id, keyOperationsPerHour: 0 }));
      done(await second.keys.regenerate(owner, { id: result.keyId }));
      done(await ledger.organizations.changeSettings(owner, { organizationId: id, keyOperationsPerHour: null }));
      await expect(second.keys.regenerate(owner, { id: result.keyId })).rejects.toThrow('At most 4 keys');
    });
  });

  it('say what is wrong with an input, and change nothing for another organization or without need', async () => {
    const { id, owner, change } = await organizationWith({});
    for (const [changes, field] of [
      [{ quotaStatus: 418 }, 'quotaStatus'],
      [{ keyOperationsPerHour: -1 }, 'keyOperationsPerHour'],
      [{ keyOperationsPerHour: 1.5 }, 'keyOperationsPerHour'],
      [{ publicKeyPermissions: ['with space'] }, 'publicKeyPermissions.0'],
      [{ deletionPolicy: 'NEVER' }, 'deletionPolicy'],
      [{ alertDefaults: { quotaThresholds: [0] } }, 'alertDefaults.quotaThresholds.0'],
      [{ alertDefaults: { unusedForDays: 0 } }, 'alertDefaults.unusedForDays'],
    ] as const)
      expect(await change(changes)).toMatchObject({ code: 'INVALID_INPUT', field });
    const other = await ledger.newOrganization('Other');
    expect(await ledger.organizations.changeSettings(other.owner, { organizationId: id, quotaStatus: 401 })).toMatchObject({
      code: 'NOT_FOUND',
    });
    done(await change({ alertDefaults: { quotaThresholds: [90, 50, 90], expiringWithinDays: null } }));
    const { result: _, ...first } = done(await change({ alertDefaults: { unusedForDays: 30 } }));
    const again = done(await change({ alertDefaults: { unusedForDays: 30 }, quotaStatus: null }));
    const row = await ledger.db.selectFrom('organizations').selectAll().where('id', '=', id).executeTakeFirstOrThrow();
    expect(row).toMatchObject({
      alert_quota_thresholds: [50, 90],
      alert_expiring_within_days: null,
      alert_unused_for_days: 30,
      quota_status: 429,
    });
    expect(again.position).toBe(first.position);
    await expect(ledger.organizations.changeSettings({ ...owner, permissions: new Set() }, { organizationId: id })).rejects.toThrow(
      'organization:write',
    );
  });
});

const REPORT = {
  requestId: null,
  at: null,
  endpoint: 'GET /',
  status: 200,
  durationMs: 1,
  ip: null,
  credits: 0,
  costMicros: null,
  tokensIn: null,
  tokensOut: null,
  model: null,
};

const KEY_FACTS: Omit<Extract<KeyEvent, { type: 'KeyCreated' }>['data'], 'keyId'> = {
  number: 900_000,
  type: 'PUBLIC',
  ownerId: null,
  name: 'Overtaken',
  category: 'production',
  permissions: ['admin'],
  expiresAt: null,
  profileId: null,
  metadata: {},
  ipAllowlist: [],
  allowedOrigins: [],
  quotas: { total: null, daily: null, weekly: null, monthly: null },
  limits: { requestsPerMinute: null, tokensPerMinute: null },
  rotateEveryDays: null,
  lookupId: 'x',
  masked: 'x',
  verifierFingerprint: 'x',
};
