import type pg from 'pg';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';

import type { UsageItem } from '../../src/admission/admission.ts';
import { check } from '../../src/audit/check.ts';
import type { Finding, FindingKind } from '../../src/audit/finding.ts';
import { createFolder } from '../../src/projections/projection.ts';
import { createProjector } from '../../src/projections/projector.ts';
import { USAGE_PROJECTION } from '../../src/projections/usage-fold.ts';
import { asAdmin } from '../support/database.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';

let ledger: TestLedger;
let live: { keyId: string; secret: string };
let rotated: { keyId: string };
let deleted: { keyId: string };

const TABLES =
  'events usage_events settlements organizations members access_tokens api_keys key_verifiers ' +
  'key_windows key_window_buckets projections parked_events usage_counters usage_open_minutes usage_breakdown key_last_used';

const ITEM: UsageItem = {
  requestId: null,
  keyId: null,
  at: null,
  endpoint: 'GET /v1/models',
  status: 200,
  durationMs: 12,
  ip: null,
  credits: null,
  costMicros: 250n,
  tokensIn: 10n,
  tokensOut: 20n,
  model: 'm-large',
};

beforeAll(async () => {
  ledger = await openTestLedger();
  const { keys, owner, organization, organizations, tokens, admission } = ledger;
  live = await ledger.newKey({ name: 'live key', limits: { requestsPerMinute: 3 } });
  rotated = await ledger.newKey();
  deleted = await ledger.newKey({ name: 'deleted key' });
  await ledger.newKey({ name: 'personal key', personal: true });
  done(await keys.regenerate(owner, { id: rotated.keyId, overlapUntil: new Date(Date.now() + 600_000).toISOString() }));
  done(await keys.delete(owner, { id: deleted.keyId, confirmName: 'deleted key' }));
  done(await organizations.addMember(owner, { organizationId: organization.id, role: 'MEMBER' }));
  done(await tokens.create(owner, { organizationId: organization.id, name: 'gateway', permissions: ['keys:verify'] }));
  for (let request = 0; request < 5; request++) await ledger.verify(live.secret, { requestId: `request ${request}` });
  await admission.recordUsage(organization.id, [
    { ...ITEM, requestId: 'request 0', status: 500 },
    { ...ITEM, keyId: live.keyId, at: new Date(Date.now() - 3 * 86_400_000) },
    { ...ITEM, keyId: rotated.keyId, at: new Date(Date.now() - 30 * 86_400_000) },
  ]);
  done(await keys.update(owner, { id: rotated.keyId, category: 'moved' }));
  await admission.recordUsage(organization.id, [{ ...ITEM, keyId: rotated.keyId }]);
  await createFolder(USAGE_PROJECTION, 'live')(ledger.db);
  await asAdmin(async (admin) => {
    for (const table of ['events', 'usage_events_000000']) await admin.query(`ALTER TABLE keyledger.${table} DISABLE TRIGGER ALL`);
    await admin.query('CREATE SCHEMA undamaged');
    for (const table of TABLES.split(' ')) await admin.query(`CREATE TABLE undamaged.${table} AS SELECT * FROM keyledger.${table}`);
  }, ledger.testDatabase.name);
});

/** Every test begins with the ledger as it was prepared. */
afterEach(async () => {
  await damage(async (admin) => {
    // The ledger that was prepared keeps no balance.
    await admin.query('BEGIN; SET LOCAL session_replication_role = replica; DELETE FROM keyledger.balances');
    for (const table of TABLES.split(' ')) {
      const { rows } = await admin.query<{ columns: string }>(
        "SELECT string_agg(quote_ident(attname), ', ') AS columns FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND attgenerated = ''",
        [`keyledger.${table}`],
      );
      const columns = rows[0]?.columns ?? '';
      await admin.query(
        `DELETE FROM keyledger.${table}; INSERT INTO keyledger.${table} (${columns}) SELECT ${columns} FROM undamaged.${table}`,
      );
    }
    await admin.query('COMMIT');
  });
});

afterAll(async () => {
  await ledger.close();
});

async function findings(): Promise<readonly Finding[]> {
  const found: Finding[] = [];
  const report = await check(ledger.database, { onFinding: (finding) => found.push(finding), onProgress: () => undefined });
  expect(report).toMatchObject({ findings: found.length, interrupted: false });
  return found;
}

/** Changes what nobody may change: as a superuser, with the triggers of the log disabled. */
async function damage(work: (admin: pg.Client) => Promise<unknown>): Promise<void> {
  await asAdmin(async (admin) => {
    await admin.query('SET search_path = keyledger');
    await work(admin);
  }, ledger.testDatabase.name);
}

const kinds = (found: readonly Finding[]): readonly FindingKind[] => [...new Set(found.map(({ kind }) => kind))].toSorted();

test('a ledger that was only ever changed by the product has no findings, and progress is told', async () => {
  const steps: string[] = [];
  const report = await check(ledger.database, {
    onFinding: (finding) => expect.fail(JSON.stringify(finding)),
    onProgress: ({ step, done: sofar, total }) => {
      expect(sofar).toBeLessThanOrEqual(total);
      steps.push(step);
    },
  });
  expect(report).toMatchObject({ findings: 0, interrupted: false });
  expect(new Set(steps)).toEqual(new Set(['positions', 'versions of streams', 'state and verifiers', 'personal keys', 'usage']));
});

test('7.3 while traffic runs there are no findings either', async () => {
  const work = { on: true };
  const projector = createProjector({
    database: ledger.database,
    projections: [USAGE_PROJECTION],
    pollMs: 5,
    pauseMs: 0,
    onError: () => undefined,
    onPoisoned: () => undefined,
  });
  const traffic = [
    (async () => {
      while (work.on) await ledger.verify(live.secret);
    })(),
    (async () => {
      while (work.on) await ledger.admission.recordUsage(ledger.organization.id, [{ ...ITEM, keyId: rotated.keyId }]);
    })(),
    (async () => {
      for (let turn = 0; work.on; turn++) {
        done(await ledger.keys.update(ledger.owner, { id: rotated.keyId, category: `c${turn}` }));
        done(await ledger.keys.regenerate(ledger.owner, { id: rotated.keyId }));
      }
    })(),
    (async () => {
      while (work.on) await ledger.newKey();
    })(),
  ];
  try {
    for (let round = 0; round < 8; round++) expect(await findings()).toEqual([]);
  } finally {
    work.on = false;
    await Promise.all(traffic);
    await projector.stop();
  }
});

test('a check that is interrupted says so', async () => {
  const stop = new AbortController();
  stop.abort();
  expect(await check(ledger.database, { signal: stop.signal, onFinding: () => undefined, onProgress: () => undefined })).toMatchObject({
    interrupted: true,
  });
});

const PLANTED: readonly (readonly [string, FindingKind, RegExp, (admin: pg.Client) => Promise<unknown>])[] = [
  ['a life-cycle event that is gone', 'position-missing', /^position 1$/, (admin) => admin.query('DELETE FROM events WHERE position = 1')],
  [
    'a usage event that is gone',
    'position-missing',
    /^position \d+$/,
    (admin) => admin.query('DELETE FROM usage_events WHERE position = (SELECT min(position) FROM usage_events)'),
  ],
  [
    'one position for two events',
    'position-double',
    /^position 1$/,
    (admin) => admin.query('UPDATE usage_events SET position = 1 WHERE position = (SELECT max(position) FROM usage_events WHERE kind = 1)'),
  ],
  [
    'a moment before the one before it',
    'time-backwards',
    /^position \d+$/,
    (admin) => admin.query("UPDATE events SET recorded_at = recorded_at - interval '1 day' WHERE position = 3"),
  ],
  [
    'a version that is skipped',
    'stream-gap',
    /^key:/,
    (admin) => admin.query("UPDATE events SET version = 7 WHERE stream LIKE 'key:%' AND version = 2"),
  ],
  [
    'versions that were exchanged',
    'stream-gap',
    /^organization:/,
    async (admin) => {
      await admin.query("UPDATE events SET version = version + 100 WHERE stream LIKE 'organization:%' AND version IN (2, 3)");
      await admin.query('UPDATE events SET version = CASE version WHEN 102 THEN 3 ELSE 2 END WHERE version > 100');
    },
  ],
  [
    'an event of a type that nobody knows',
    'stream-unreadable',
    /^key:/,
    (admin) => admin.query("UPDATE events SET type = 'Exploded' WHERE type = 'Regenerated'"),
  ],
  [
    'an event whose text was changed',
    'row-differs',
    /^api_keys .* name(_folded)?$/,
    (admin) => admin.query("UPDATE events SET data = replace(data::text, 'live key', 'dead key')::json WHERE type = 'KeyCreated'"),
  ],
  [
    'an event with another actor',
    'row-differs',
    /^api_keys .* created_by$/,
    (admin) => admin.query("UPDATE events SET actor = 'system' WHERE type = 'KeyCreated'"),
  ],
  [
    'a key that was given permissions',
    'row-differs',
    /^api_keys .* permissions$/,
    (admin) => admin.query("UPDATE api_keys SET permissions = '{admin}' WHERE name = 'live key'"),
  ],
  ['a key of another version', 'row-differs', /^api_keys .* version$/, (admin) => admin.query('UPDATE api_keys SET version = version + 1')],
  [
    'a deleted key that lives again',
    'row-differs',
    /^api_keys .* state$/,
    (admin) => admin.query("UPDATE api_keys SET state = 'active' WHERE state = 'deleted'"),
  ],
  ['a member with another role', 'row-differs', /^members .* role$/, (admin) => admin.query("UPDATE members SET role = 'OWNER'")],
  [
    'a token that was widened',
    'row-differs',
    /^access_tokens .* permissions$/,
    (admin) => admin.query('UPDATE access_tokens SET permissions = permissions || $1', [['keys:write']]),
  ],
  [
    'an organization with another name',
    'row-differs',
    /^organizations .* name$/,
    (admin) => admin.query("UPDATE organizations SET name = 'x'"),
  ],
  ['a member that is gone', 'row-missing', /^members /, (admin) => admin.query("DELETE FROM members WHERE role = 'MEMBER'")],
  [
    'a member that nobody added',
    'row-unaccounted',
    /^members /,
    (admin) =>
      admin.query(
        "INSERT INTO members (organization_id, id, role, joined_at) SELECT id, gen_random_uuid(), 'OWNER', now() FROM organizations",
      ),
  ],
  [
    'a verifier that was swapped',
    'verifier-differs',
    /^verifiers of key /,
    (admin) => admin.query("UPDATE key_verifiers SET argon2 = argon2 || 'x' WHERE NOT current"),
  ],
  [
    'a verifier that charges another key',
    'verifier-differs',
    /^verifiers of key /,
    (admin) => admin.query('UPDATE key_verifiers SET key = key + 1'),
  ],
  [
    'a verifier that somebody added',
    'verifier-unexpected',
    /^verifiers of key /,
    (admin) =>
      admin.query(
        "INSERT INTO key_verifiers SELECT (jsonb_populate_record(v, jsonb_build_object('lookup_id', 'somebodys', 'current', false, 'expires_at', now() + interval '1 year'))).* FROM key_verifiers v WHERE current LIMIT 1",
      ),
  ],
  [
    'an outdated secret that lasts longer',
    'verifier-unexpected',
    /^verifiers of key /,
    (admin) => admin.query("UPDATE key_verifiers SET expires_at = expires_at + interval '1 day' WHERE NOT current"),
  ],
  [
    'a verifier of a deleted key',
    'verifier-unexpected',
    /^verifiers of key /,
    (admin) =>
      admin.query(
        "INSERT INTO key_verifiers SELECT (jsonb_populate_record(v, jsonb_build_object('lookup_id', 'undead', 'key_id', k.id))).* FROM key_verifiers v, api_keys k WHERE v.current AND k.state = 'deleted' LIMIT 1",
      ),
  ],
  ['a verifier that is gone', 'verifier-missing', /^verifiers of key /, (admin) => admin.query('DELETE FROM key_verifiers WHERE current')],
  ['a settlement that is gone', 'settlement-differs', /^request \d+$/, (admin) => admin.query('DELETE FROM settlements')],
  ['a settlement by no event', 'settlement-differs', /^request 1$/, (admin) => admin.query('INSERT INTO settlements VALUES (1, 2)')],
  [
    'a quota that was topped up',
    'window-differs',
    /^total of key number \d+$/,
    (admin) => admin.query('UPDATE key_windows SET total = 0 WHERE total > 0'),
  ],
  [
    'a personal key that was archived though its owner belongs to no team',
    'archived-differs',
    /^key /,
    (admin) => admin.query('UPDATE api_keys SET archived = true WHERE owner_id IS NOT NULL'),
  ],
  [
    'a personal key that passes though its owner has left',
    'archived-differs',
    /^key /,
    (admin) =>
      admin.query(
        `INSERT INTO events (position, organization_id, stream, version, type, actor, recorded_at, data)
         SELECT (SELECT max(position) FROM (SELECT position FROM events UNION ALL SELECT position FROM usage_events) AS p) + 1, organization_id, stream, version + 1,
           'MembershipEnded', actor, (SELECT max(recorded_at) FROM events), json_build_object('memberId', data ->> 'ownerId')
         FROM events WHERE type = 'PersonalKeyAdded'`,
      ),
  ],
  [
    'a balance that nobody enabled',
    'balance-differs',
    /^balance of organization number 7$/,
    (admin) => admin.query('INSERT INTO balances (organization, micros) VALUES (7, 1000000)'),
  ],
  [
    'a counter that was changed',
    'counter-differs',
    /^counters of key number \d+, day /,
    (admin) => admin.query('UPDATE usage_counters SET requests = requests - 1 WHERE grain = 3 AND key > 0'),
  ],
  [
    'a counter of nothing',
    'counter-differs',
    /^counters of key number \d+, hour /,
    (admin) => admin.query("UPDATE usage_counters SET at = at - interval '1 hour' WHERE grain = 2 AND key > 0"),
  ],
  [
    'an open minute that was counted already',
    'counter-differs',
    /^counters of key number \d+, minute /,
    (admin) =>
      admin.query(
        `INSERT INTO usage_open_minutes
         SELECT slot, key, organization, at, requests, succeeded, failed, refused, credits, cost_micros, tokens_in, tokens_out, duration_ms, timed
         FROM usage_counters WHERE grain = 1 AND key > 0 ORDER BY at LIMIT 1`,
      ),
  ],
  ['a minute that is gone', 'counter-differs', /, minute /, (admin) => admin.query('DELETE FROM usage_counters WHERE grain = 1')],
  [
    "an organization's sum that is not that of its keys",
    'counter-differs',
    /^counters of organization number \d+/,
    (admin) => admin.query('UPDATE usage_counters SET cost_micros = 0 WHERE key = 0'),
  ],
  [
    "a category's sum that is not that of its keys",
    'counter-differs',
    /^counters of category \w+ of organization number \d+/,
    (admin) => admin.query('UPDATE usage_counters SET requests = requests + 1 WHERE key < 0'),
  ],
  [
    "a category's breakdown that is gone",
    'counter-differs',
    /^breakdown of category \w+ of organization number \d+/,
    (admin) => admin.query('DELETE FROM usage_breakdown WHERE key < 0'),
  ],
  [
    "a category's moment of last use that was changed",
    'last-used-differs',
    /^category \w+ of organization number \d+$/,
    (admin) => admin.query("UPDATE key_last_used SET last_used_at = last_used_at - interval '1 second' WHERE key < 0"),
  ],
  [
    'a breakdown that was changed',
    'counter-differs',
    /^breakdown of key number \d+/,
    (admin) => admin.query("UPDATE usage_breakdown SET value = 'other' WHERE dimension = 2 AND key > 0"),
  ],
  [
    "an organization's breakdown that was changed",
    'counter-differs',
    /^breakdown of organization number \d+/,
    (admin) => admin.query('UPDATE usage_breakdown SET events = events + 1 WHERE key = 0'),
  ],
  [
    'a usage event that was changed',
    'counter-differs',
    /^counters of key number \d+/,
    (admin) => admin.query('UPDATE usage_events SET cost_micros = 1 WHERE cost_micros > 1'),
  ],
  [
    'a moment of last use that was changed',
    'last-used-differs',
    /^key number \d+$/,
    (admin) => admin.query("UPDATE key_last_used SET last_used_at = last_used_at + interval '1 second'"),
  ],
  [
    'an event that the projector had to set aside',
    'event-parked',
    /^position 9$/,
    (admin) => admin.query("INSERT INTO parked_events (projection, slot, position, reason) VALUES ('usage', 0, 9, 'unreadable')"),
  ],
  [
    'a projection that is ahead of its log',
    'projection-ahead',
    /^projection usage$/,
    (admin) => admin.query("UPDATE projections SET position = 1000000 WHERE state = 'live'"),
  ],
];

test.each(PLANTED)('%s is found as %s', async (_, kind, subject, plant) => {
  await damage(plant);
  const found = await findings();
  expect(kinds(found)).toContain(kind);
  expect(found.filter((finding) => finding.kind === kind).some((finding) => subject.test(finding.subject))).toBe(true);
});

test('every kind of finding has its damage above, and what was restored in between has none', async () => {
  expect(await findings()).toEqual([]);
  const every: Readonly<Record<FindingKind, true>> = {
    'position-missing': true,
    'position-double': true,
    'time-backwards': true,
    'stream-gap': true,
    'stream-unreadable': true,
    'row-missing': true,
    'row-differs': true,
    'row-unaccounted': true,
    'verifier-missing': true,
    'verifier-differs': true,
    'verifier-unexpected': true,
    'settlement-differs': true,
    'window-differs': true,
    'balance-differs': true,
    'archived-differs': true,
    'counter-differs': true,
    'last-used-differs': true,
    'event-parked': true,
    'projection-ahead': true,
  };
  expect([...new Set(PLANTED.map(([, kind]) => kind))].toSorted()).toEqual(Object.keys(every).toSorted());
});
