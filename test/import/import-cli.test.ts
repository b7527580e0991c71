import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sql } from 'kysely';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { runCli, startCli } from '../cli/run-cli.ts';
import { encodeGlobalId } from '../../src/graphql/global-id.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';

let ledger: TestLedger;
let env: Readonly<Record<string, string>>;
let folder: string;

beforeAll(async () => {
  ledger = await openTestLedger();
  env = { DATABASE_URL: ledger.testDatabase.serverUrl.reveal() };
  folder = await mkdtemp(join(tmpdir(), 'keyledger-import-'));
});
afterAll(async () => {
  await rm(folder, { recursive: true });
  await ledger.close();
});

const newSecret = () => `unkey_${randomBytes(16).toString('hex')}`;
const sha256 = (text: string) => createHash('sha256').update(text).digest('base64');

async function write(name: string, text: string): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, text);
  return path;
}
const lines = (entries: readonly unknown[]) => entries.map((entry) => `${JSON.stringify(entry)}\n`).join('');
const countBulk = async () =>
  Number(
    (await sql<{ count: bigint }>`SELECT count(*) AS count FROM api_keys WHERE name LIKE 'bulk %'`.execute(ledger.db)).rows[0]?.count ?? 0n,
  );

test(
  'keyledger import brings keys in from lines of JSON or an array, and run again finds all of them there',
  { timeout: 120_000 },
  async () => {
    const secrets = Array.from({ length: 250 }, newSecret);
    const entries = secrets.map((secret, index) => ({
      name: `customer ${index}`,
      hash: sha256(secret),
      start: secret.slice(0, 8),
      permissions: ['read'],
    }));
    const file = await write('keys.ndjson', lines(entries));
    expect(await runCli(['import', file], env)).toMatchObject({
      code: 0,
      out: '250 imported, 0 were there already, 0 at fault, of 250.\n',
    });
    expect(await ledger.verify(secrets[249] ?? '', { permissions: ['read'] })).toMatchObject({
      code: 'VALID',
      key: { name: 'customer 249' },
    });
    expect((await runCli(['import', file], env)).out).toBe('0 imported, 250 were there already, 0 at fault, of 250.\n');
    const more = newSecret();
    const array = await write('keys.json', JSON.stringify([...entries.slice(0, 3), { name: 'one more', hash: sha256(more) }], null, 2));
    expect((await runCli(['import', array, '--json'], env)).out).toBe(
      '{"imported":1,"already":3,"failed":0,"total":4,"interrupted":false,"stopped":null}\n',
    );
    expect(await ledger.verify(more)).toMatchObject({ code: 'VALID' });
  },
);

test('a line at fault is named and holds up no other; names that are missing or taken are completed, the same way each time', async () => {
  const [good, unnamed, twin, late] = [newSecret(), newSecret(), newSecret(), newSecret()];
  const prefix = (secret: string) => Buffer.from(sha256(secret), 'base64').toString('hex').slice(0, 8);
  const text = `${lines([
    { name: 'a good one', hash: sha256(good) },
    { hash: sha256(unnamed) },
    { name: 'A GOOD ONE', hash: sha256(twin) },
    { name: 'no hash' },
    { name: 'not a hash', hash: 'x' },
    { name: 'same hash', hash: sha256(good) },
    { name: 'unknown field', hash: sha256(newSecret()), remaining: 3 },
    { name: 'has expired', hash: sha256(newSecret()), expiresAt: '2020-01-01T00:00:00Z' },
    { name: 7, hash: sha256(newSecret()) },
    [],
  ])}\n{"name": \n${JSON.stringify({ name: 'the last one', hash: sha256(late), enabled: false })}`;
  const { code, out, err } = await runCli(['import', await write('faults.ndjson', text)], env);
  expect(code).toBe(1);
  expect(out).toBe(
    `line 2: named "imported ${prefix(unnamed)}"\nline 3: named "A GOOD ONE ${prefix(twin)}"\n4 imported, 0 were there already, 8 at fault, of 12.\n`,
  );
  expect(
    err
      .trimEnd()
      .split('\n')
      .map((line) => line.replace(/:.*/, ''))
      .toSorted(),
  ).toEqual(['line 4', 'line 5', 'line 6', 'line 7', 'line 8', 'line 9', 'line 10', 'line 12'].toSorted());
  expect(err).toMatch(/line 7: .*remaining/);
  expect(err).toMatch(/line 8: .*expiresAt.* past/);
  expect(await ledger.verify(late)).toMatchObject({ code: 'INACTIVE' });
  expect(await ledger.verify(twin)).toMatchObject({ code: 'VALID' });
});

test('3.2 a line can name an owner and a profile, by the ids of GraphQL or bare ones; one that is not there is named', async () => {
  const { organizationId, memberId } = ledger.owner;
  const { profileId } = done(await ledger.profiles.create(ledger.owner, { organizationId, name: 'gold', settings: { tier: 1 } })).result;
  const [bare, shown] = [newSecret(), newSecret()];
  const text = lines([
    { name: 'with bare ids', hash: sha256(bare), profileId, ownerId: memberId },
    {
      name: 'with ids as shown',
      hash: sha256(shown),
      profileId: encodeGlobalId('Profile', profileId),
      ownerId: encodeGlobalId('Member', `${organizationId}:${memberId}`),
    },
    { name: 'no such owner', hash: sha256(newSecret()), ownerId: profileId },
    { name: 'no such profile', hash: sha256(newSecret()), profileId: memberId },
    { name: 'no id at all', hash: sha256(newSecret()), ownerId: 'me' },
  ]);
  const { code, out, err } = await runCli(['import', await write('owned.ndjson', text), '--organization', organizationId], env);
  expect({ code, out }).toEqual({ code: 1, out: '2 imported, 0 were there already, 3 at fault, of 5.\n' });
  expect(err).toMatch(/line 3: .*ownerId.* no such member/);
  expect(err).toMatch(/line 4: .*profileId.* no such profile/);
  expect(err).toMatch(/line 5: .*ownerId.* id of a member/);
  for (const secret of [bare, shown])
    expect(await ledger.verify(secret)).toMatchObject({ code: 'VALID', key: { ownerId: memberId, profile: { name: 'gold' } } });
});

test('it can be interrupted at any time, and goes on where it stopped', { timeout: 120_000 }, async () => {
  const entries = Array.from({ length: 2000 }, (_, index) => ({ name: `bulk ${index}`, hash: sha256(newSecret()) }));
  const file = await write('bulk.ndjson', lines(entries));
  const before = await countBulk();
  const first = startCli(['import', file], env);
  while ((await countBulk()) === before) await new Promise((resolve) => setTimeout(resolve, 5));
  first.child.kill('SIGKILL');
  await first.ended;
  const kept = (await countBulk()) - before;
  expect(kept).toBeGreaterThan(0);
  expect(kept).toBeLessThan(2000);
  const second = await runCli(['import', file, '--json'], env);
  expect(JSON.parse(second.out)).toEqual({
    imported: 2000 - kept,
    already: kept,
    failed: 0,
    total: 2000,
    interrupted: false,
    stopped: null,
  });
  expect((await countBulk()) - before).toBe(2000);
});

test('what can not be read, or an organization without funds, is one sentence and exit code 1', async () => {
  expect(await runCli(['import', join(folder, 'nothing.json')], env)).toMatchObject({
    code: 1,
    out: '',
    err: expect.stringContaining('can not be read') as string,
  });
  const broken = await write('broken.json', '[{"name": "x"');
  expect(await runCli(['import', broken], env)).toMatchObject({ code: 1, err: 'line 1: the array is no JSON\n' });
  const poor = await ledger.newOrganization('Without funds');
  await ledger.balances.enable(null, { organizationId: poor.id });
  const file = await write('poor.ndjson', lines([{ name: 'too poor', hash: sha256(newSecret()) }]));
  const { code, err } = await runCli(['import', file, '--organization', poor.id], env);
  expect({ code, err }).toEqual({ code: 1, err: expect.stringMatching(/^Stopped: The prepaid balance/) as string });
});

test('migrating.md: what it gets out of better-auth can be imported, and the keys work', { timeout: 60_000 }, async () => {
  const docs = await readFile(new URL('../../docs/migrating.md', import.meta.url), 'utf8');
  const statement = /psql [^"]*-c "([^]*?)" > keys\.ndjson/.exec(docs)?.[1]?.replaceAll('\\"', '"') ?? '';
  const secret = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijkl';
  const client = new pg.Client({ connectionString: ledger.testDatabase.ownerUrl.reveal() });
  await client.connect();
  try {
    // As the plugin's migration makes it.
    await client.query(`CREATE TEMP TABLE apikey (id text, name text, start text, prefix text, key text NOT NULL, "userId" text, "refillInterval" integer, "refillAmount" integer,
      "lastRefillAt" timestamptz, enabled boolean, "rateLimitEnabled" boolean, "rateLimitTimeWindow" integer, "rateLimitMax" integer, "requestCount" integer, remaining integer,
      "lastRequest" timestamptz, "expiresAt" timestamptz, permissions text, metadata text)`);
    const hash = createHash('sha256').update(secret).digest('base64url');
    const row = (id: string, name: string | null, key: string, more: readonly unknown[]) =>
      client.query(
        'INSERT INTO apikey (id, name, start, key, enabled, "rateLimitEnabled", "rateLimitTimeWindow", "rateLimitMax", remaining, "expiresAt", permissions) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)',
        [id, name, secret.slice(0, 6), key, ...more],
      );
    await row('a', 'from better-auth', hash, [true, true, 86_400_000, 10, null, '2040-01-01T00:00:00Z', '{"files":["read","write"]}']);
    await row('b', null, createHash('sha256').update(`${secret}2`).digest('base64url'), [false, true, 60_000, 5, 7, null, null]);
    await row('c', 'expired', createHash('sha256').update(`${secret}3`).digest('base64url'), [
      true,
      false,
      null,
      null,
      null,
      '2020-01-01T00:00:00Z',
      null,
    ]);
    const { rows } = await client.query<{ json_build_object: unknown }>(statement);
    const file = await write('better-auth.ndjson', lines(rows.map((found) => found.json_build_object)));
    expect(await runCli(['import', file, '--organization', ledger.organization.id], env)).toMatchObject({
      code: 0,
      out: expect.stringContaining('2 imported, 0 were there already, 0 at fault, of 2.') as string,
    });
  } finally {
    await client.end();
  }
  const answer = await ledger.verify(secret, { permissions: ['files:read'] });
  expect(answer).toMatchObject({
    code: 'VALID',
    key: {
      name: 'from better-auth',
      permissions: ['files:read', 'files:write'],
      metadata: { betterAuthId: 'a' },
      expiresAt: new Date('2040-01-01T00:00:00Z'),
    },
    quotas: [{ window: 'DAILY', limit: 10, remaining: 9 }],
  });
  expect(await ledger.verify(`${secret}2`)).toMatchObject({ code: 'INACTIVE' });
});
