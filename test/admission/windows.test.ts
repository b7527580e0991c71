import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { asAdmin } from '../support/database.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';
import { installTestClock } from '../support/test-clock.ts';

const ITEM = {
  keyId: null,
  at: null,
  endpoint: 'GET /',
  status: 200,
  durationMs: 5,
  ip: null,
  credits: null,
  costMicros: null,
  tokensIn: null,
  tokensOut: null,
  model: null,
};

describe('the windows of a key', () => {
  let ledger: TestLedger;
  beforeAll(async () => {
    ledger = await openTestLedger();
  });
  afterAll(() => ledger.close());

  const numberOf = async (keyId: string) =>
    (await ledger.db.selectFrom('api_keys').select('number').where('id', '=', keyId).executeTakeFirstOrThrow()).number;
  const check = async (keyId: string) =>
    (await sql<{ kept: string }>`SELECT * FROM window_differences(${await numberOf(keyId)})`.execute(ledger.db)).rows;
  const repair = async (keyId: string) =>
    (await sql<{ mended: boolean }>`SELECT repair_windows(${await numberOf(keyId)}) AS mended`.execute(ledger.db)).rows[0]?.mended;

  it('5.5 equal its usage events, verified, reported late and settled', async () => {
    const { keyId, secret } = await ledger.newKey({ limits: { tokensPerMinute: 1000 } });
    const hoursAgo = (hours: number) => new Date(Date.now() - hours * 3_600_000);
    const first = await ledger.verify(secret, { cost: 3 });
    if (first.kind !== 'answer') throw new Error('refused');
    await ledger.admission.recordUsage(ledger.organization.id, [
      { ...ITEM, requestId: first.requestId, tokensIn: 100n, tokensOut: 50n },
      { ...ITEM, requestId: null, keyId, at: hoursAgo(2), credits: 7 },
      { ...ITEM, requestId: null, keyId, at: hoursAgo(30), credits: 11 },
      { ...ITEM, requestId: null, keyId, at: hoursAgo(24 * 20), credits: 13 },
      { ...ITEM, requestId: null, keyId, at: new Date(Date.now() - 10_000), credits: 2, tokensIn: 5n },
    ]);
    await ledger.verify(secret);
    expect(await check(keyId)).toEqual([]);
    const row = await sql<{ total: bigint }>`SELECT total FROM key_windows WHERE key = ${await numberOf(keyId)}`.execute(ledger.db);
    expect(row.rows).toEqual([{ total: 37n }]);
  });

  it('5.5 equal its usage events where the clock stepped back between a verification and a report', async () => {
    const stepping = await openTestLedger();
    try {
      const { keyId, secret } = await stepping.newKey({ limits: { tokensPerMinute: 1000 } });
      const clock = await installTestClock(stepping.testDatabase);
      try {
        const at = new Date(Math.floor(Date.now() / 1000) * 1000 + 500);
        await clock.stopAt(at);
        await stepping.verify(secret);
        await clock.stopAt(new Date(at.getTime() - 2000));
        await stepping.admission.recordUsage(stepping.organization.id, [{ ...ITEM, requestId: null, keyId, credits: 3, tokensIn: 7n }]);
      } finally {
        await clock.close();
      }
      const { number } = await stepping.db.selectFrom('api_keys').select('number').where('id', '=', keyId).executeTakeFirstOrThrow();
      expect((await sql`SELECT * FROM window_differences(${number})`.execute(stepping.db)).rows).toEqual([]);
    } finally {
      await stepping.close();
    }
  });

  it('are found out where they differ from the log, and repaired', async () => {
    const { keyId, secret } = await ledger.newKey();
    await ledger.verify(secret);
    await asAdmin(
      (admin) => admin.query('UPDATE keyledger.key_windows SET total = total + 5, quarter_count = 0'),
      ledger.testDatabase.name,
    );
    expect((await check(keyId)).map((finding) => finding.kept).sort()).toEqual(['quarters', 'total']);
    expect(await repair(keyId)).toBe(true);
    expect(await check(keyId)).toEqual([]);
    expect(await repair(keyId)).toBe(false);
  });

  it('1.8 refuse by tokens once they are settled, until they have left the minute', async () => {
    const { secret } = await ledger.newKey({ limits: { tokensPerMinute: 100 } });
    const first = await ledger.verify(secret);
    if (first.kind !== 'answer') throw new Error('refused');
    expect(first.code).toBe('VALID');
    await ledger.admission.recordUsage(ledger.organization.id, [{ ...ITEM, requestId: first.requestId, tokensIn: 90n, tokensOut: 10n }]);
    const refused = await ledger.verify(secret);
    expect(refused).toMatchObject({ code: 'RATE_LIMITED', refusedBy: { limit: 'key_tokens' } });
    expect(refused.kind === 'answer' && refused.refusedBy?.retryAfterSeconds).toBeGreaterThan(55);
  });

  it('count what was used before a limit was set or changed', async () => {
    const { keyId, secret } = await ledger.newKey();
    for (let use = 0; use < 5; use++) await ledger.verify(secret);
    done(await ledger.keys.update(ledger.owner, { id: keyId, quotas: { total: null, daily: 6, weekly: null, monthly: null } }));
    expect(await ledger.verify(secret)).toMatchObject({ code: 'VALID', quotas: [{ window: 'DAILY', limit: 6, remaining: 0 }] });
    expect(await ledger.verify(secret)).toMatchObject({ code: 'QUOTA_EXCEEDED' });
    done(
      await ledger.keys.update(ledger.owner, {
        id: keyId,
        limits: { requestsPerMinute: 3, tokensPerMinute: null },
        quotas: { total: null, daily: null, weekly: null, monthly: null },
      }),
    );
    expect(await ledger.verify(secret)).toMatchObject({ code: 'RATE_LIMITED', refusedBy: { limit: 'key_minute' } });
  });

  it('3.5 of an organization cap all its keys together, and a refusal there consumes nothing of the key', async () => {
    const capped = await ledger.newOrganization('Capped');
    done(
      await ledger.organizations.changePlan(null, {
        organizationId: capped.id,
        plan: 'ENTERPRISE',
        caps: { requestsPerSecond: null, requestsPerMinute: 5 },
      }),
    );
    const keys = await Promise.all([1, 2].map(() => ledger.newKey({ quotas: { total: 100 } }, capped.owner)));
    const answers = await Promise.all(
      Array.from({ length: 12 }, (_, index) => ledger.verify(keys[index % 2]?.secret ?? '', {}, capped.id)),
    );
    expect(answers.filter((answer) => answer.kind === 'answer' && answer.code === 'VALID')).toHaveLength(5);
    expect(answers.find((answer) => answer.kind === 'answer' && answer.code !== 'VALID')).toMatchObject({
      code: 'RATE_LIMITED',
      refusedBy: { limit: 'organization_minute' },
    });
    const spent = await sql<{
      spent: bigint;
    }>`SELECT sum(total)::bigint AS spent FROM key_windows w JOIN api_keys k ON k.number = w.key WHERE k.organization_id = ${capped.id}`.execute(
      ledger.db,
    );
    expect(spent.rows).toEqual([{ spent: 5n }]);
    done(await ledger.organizations.changePlan(null, { organizationId: capped.id, plan: 'ENTERPRISE' }));
    for (let use = 0; use < 3; use++) expect(await ledger.verify(keys[0]?.secret ?? '', {}, capped.id)).toMatchObject({ code: 'VALID' });
    // A new cap counts what the last minute used while there was none: 5 and 3.
    done(
      await ledger.organizations.changePlan(null, {
        organizationId: capped.id,
        plan: 'ENTERPRISE',
        caps: { requestsPerSecond: null, requestsPerMinute: 9 },
      }),
    );
    expect(await ledger.verify(keys[1]?.secret ?? '', {}, capped.id)).toMatchObject({ code: 'VALID' });
    expect(await ledger.verify(keys[1]?.secret ?? '', {}, capped.id)).toMatchObject({ code: 'RATE_LIMITED' });
    done(await ledger.organizations.changePlan(null, { organizationId: capped.id, plan: 'ENTERPRISE' }));
    expect(await ledger.verify(keys[0]?.secret ?? '', {}, capped.id)).toMatchObject({ code: 'VALID' });
  });
});
