import { sql } from 'kysely';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { openDatabase, type Database } from '../../src/postgres/pool.ts';
import { asAdmin, createTestDatabase, type TestDatabase } from '../support/database.ts';
import { appendUsage, createTenant, type Tenant } from '../support/tenant.ts';
import { runCli, startCli } from './run-cli.ts';

const COMMANDS = ['serve', 'migrate', 'bootstrap', 'token', 'balance', 'import', 'replay', 'rebuild', 'check'];
const STACK = /\n\s+at /;

let target: TestDatabase;
let database: Database;
let tenant: Tenant;
let env: Readonly<Record<string, string>>;

beforeAll(async () => {
  target = await createTestDatabase();
  env = { DATABASE_URL: target.serverUrl.reveal(), MIGRATION_DATABASE_URL: target.ownerUrl.reveal() };
  database = openDatabase({ connectionString: target.serverUrl, applicationName: 'cli test', maxConnections: 3, onError: () => undefined });
  tenant = await createTenant(database, 'Acme');
});

afterAll(async () => {
  await database.close();
  await target.drop();
});

test('help is there for the whole and for each command, without a database, and wrong usage is exit code 2', async () => {
  const nowhere = { DATABASE_URL: 'postgres://nobody@127.0.0.1:1/nothing' };
  const [all, none, unknown, ...each] = await Promise.all([
    runCli(['--help'], nowhere),
    runCli([], nowhere),
    runCli(['explode'], nowhere),
    ...COMMANDS.map((command) => runCli([command, '--help'], nowhere)),
  ]);
  expect(all).toMatchObject({ code: 0, err: '' });
  expect(none).toMatchObject({ code: 2, out: '' });
  expect(unknown).toMatchObject({ code: 2, err: 'There is no command "explode". keyledger --help lists them.\n' });
  for (const [index, result] of each.entries()) {
    expect(result).toMatchObject({ code: 0, err: '' });
    expect(result.out).toContain(`keyledger ${COMMANDS[index]}`);
    expect(all?.out).toContain(`  ${COMMANDS[index]}`);
  }
});

test('arguments that can not be understood are exit code 2 with a hint, before anything is done', async () => {
  const wrong: readonly (readonly [readonly string[], RegExp])[] = [
    [['check', '--loud'], /--loud/],
    [['bootstrap'], /--organization NAME is needed/],
    [['token', 'revoke', 'x'], /no token id/],
    [['balance'], /balance show/],
    [['balance', 'add', '1e3'], /no amount/],
    [['balance', 'add', '0.0000001'], /no amount/],
    [['balance', 'enable', '--funds', '0'], /no amount/],
    [['import'], /1 more argument is needed/],
    [['replay', 'key', 'x'], /a UUID/],
    [['replay', 'organization', '--at', 'yesterday'], /--at takes a moment/],
    [['replay', 'organization', '--position', '999999999'], /beyond the end of the log, which is \d+/],
    [['rebuild', '--only', 'everything'], /organizations, tokens, keys, .*windows, .*usage/],
  ];
  const results = await Promise.all(wrong.map(([args]) => runCli(args, env)));
  for (const [index, result] of results.entries()) {
    expect(result).toMatchObject({ code: 2, out: '' });
    expect(result.err).toMatch(wrong[index]?.[1] ?? /./);
    expect(result.err).toContain(`See: keyledger ${wrong[index]?.[0][0] ?? ''} --help`);
    expect(result.err.trimEnd().split('\n')).toHaveLength(1);
  }
});

test('a database that can not be used is one sentence with what to do, and exit code 1', async () => {
  const empty = await createTestDatabase({ empty: true });
  const results = await Promise.all([
    runCli(['check'], { DATABASE_URL: 'postgres://nobody@127.0.0.1:1/nothing' }),
    runCli(['check'], { DATABASE_URL: 'mysql://x' }),
    runCli(['check'], { DATABASE_URL: empty.serverUrl.reveal() }),
    runCli(['token', 'list'], { DATA_DIR: '/tmp/no-ledger-here' }),
  ]);
  await empty.drop();
  for (const result of results) {
    expect(result).toMatchObject({ code: 1, out: '' });
    expect(result.err).not.toMatch(STACK);
    expect(result.err.trimEnd().split('\n')).toHaveLength(1);
  }
  expect(results.map(({ err }) => err)).toEqual([
    expect.stringContaining('Nothing answers as Postgres at 127.0.0.1:1'),
    expect.stringContaining('DATABASE_URL does not begin with postgres://'),
    expect.stringContaining('Run: keyledger migrate'),
    expect.stringContaining('There is no ledger in /tmp/no-ledger-here yet'),
  ]);
});

test('migrate brings an empty database up to date, once, and bootstrap makes its first organization', async () => {
  const empty = await createTestDatabase({ empty: true });
  const settings = {
    DATABASE_URL: empty.serverUrl.reveal(),
    MIGRATION_DATABASE_URL: empty.ownerUrl.reveal(),
    BOOTSTRAP_TOKEN: 'first-owners-token-0123456789abcdef',
  };
  try {
    const first = await runCli(['migrate'], settings);
    expect(first).toMatchObject({ code: 0, err: '' });
    expect(first.out).toMatch(/applied 0001_ledger.sql\n(?:.*\n)*Done: \d+ applied\./);
    expect(await runCli(['migrate'], settings)).toMatchObject({ code: 0, out: 'Nothing to do: the database is up to date.\n' });
    const made = await runCli(
      ['bootstrap', '--organization', 'First', '--owner-name', 'Ada', '--owner-email', 'ada@example.com'],
      settings,
    );
    expect(made).toMatchObject({ code: 0, err: '' });
    expect(made.out).toContain('Access token   first-owners-token-0123456789abcdef');
    const further = await runCli(['bootstrap', '--organization', 'Second', '--json'], settings);
    expect(further.code).toBe(0);
    expect((JSON.parse(further.out) as { accessToken: string }).accessToken).not.toContain('first-owners-token');
    expect(await runCli(['check'], settings)).toMatchObject({ code: 0, err: '' });
    expect(await runCli(['token', 'list'], settings)).toMatchObject({
      code: 2,
      err: expect.stringContaining('several organizations') as string,
    });
    expect((await runCli(['token', 'list', '--organization', 'Second'], settings)).out).toContain('First owner');
  } finally {
    await empty.drop();
  }
});

test('tokens are issued, listed and revoked', async () => {
  const made = await runCli(
    ['token', 'create', '--name', 'gateway', '--permission', 'keys:verify,usage:write', '--expires-at', '2999-01-01T00:00:00Z', '--json'],
    env,
  );
  expect(made).toMatchObject({ code: 0, err: '' });
  const { tokenId, accessToken } = JSON.parse(made.out) as { tokenId: string; accessToken: string };
  const listed = await runCli(['token', 'list', '--organization', tenant.organizationId], env);
  expect(listed.out).toMatch(new RegExp(`^${tokenId}  active +gateway +service +keys:verify,usage:write +2999-01-01T00:00:00.000Z$`, 'm'));
  expect(listed.out).not.toContain(accessToken);
  expect(await runCli(['token', 'revoke', tokenId], env)).toMatchObject({ code: 0, err: '' });
  expect((await runCli(['token', 'list'], env)).out).toMatch(new RegExp(`^${tokenId}  revoked`, 'm'));
  expect(await runCli(['token', 'revoke', tenant.organizationId], env)).toMatchObject({
    code: 1,
    err: expect.stringContaining('There is no access token') as string,
  });
  expect(await runCli(['token', 'create', '--name', 'x', '--permission', 'fly'], env)).toMatchObject({
    code: 2,
    err: expect.stringContaining('keys:verify') as string,
  });
});

test('replay tells a timeline in words, and as JSON the state at any position or moment', async () => {
  const key = await tenant.createKey({ name: 'replayed', permissions: ['read:a'] });
  const { position } = await tenant.keys
    .update(tenant.owner, { id: key.id, name: 'renamed', quotas: { total: null, daily: 10, weekly: null, monthly: null } })
    .then((outcome) => (outcome.kind === 'done' ? outcome : expect.fail(outcome.message)));
  await tenant.keys.deactivate(tenant.owner, { id: key.id });
  const told = await runCli(['replay', 'key', key.id], env);
  expect(told).toMatchObject({ code: 0, err: '' });
  expect(told.out).toContain(`KeyCreated  by ${tenant.owner.id}`);
  expect(told.out).toContain('SECRET key "replayed" created, shown as sk_live_');
  expect(told.out).toContain('permissions: read:a');
  expect(told.out).toContain('name: "replayed" → "renamed"');
  expect(told.out).toContain('"status": "INACTIVE"');
  expect(told.out).not.toContain(key.secret);
  const then = await runCli(['replay', 'key', key.id, '--position', String(position), '--json'], env);
  expect(JSON.parse(then.out)).toMatchObject({
    subject: { kind: 'key', id: key.id },
    events: [{ type: 'KeyCreated' }, { type: 'Updated' }],
    state: { status: 'ACTIVE', name: 'renamed', quotas: { daily: 10 } },
  });
  const before = await runCli(['replay', 'key', key.id, '--at', '2020-01-01T00:00:00Z'], env);
  expect(before).toMatchObject({ code: 0, out: expect.stringContaining('there was no key') as string });
  const whole = await runCli(['replay', 'organization', 'Acme', '--json'], env);
  expect(JSON.parse(whole.out)).toMatchObject({
    events: expect.arrayContaining([
      expect.objectContaining({ type: 'OrganizationCreated', changes: ['organization "Acme" created, on plan ENTERPRISE'] }),
    ]) as unknown[],
    state: {
      name: 'Acme',
      members: [{ id: tenant.owner.memberId, role: 'OWNER' }],
      keys: expect.arrayContaining([expect.objectContaining({ name: 'renamed', status: 'INACTIVE' })]) as unknown[],
    },
  });
  expect(await runCli(['replay', 'key', '00000000-0000-7000-8000-000000000000'], env)).toMatchObject({
    code: 1,
    err: expect.stringContaining('The log has no key') as string,
  });
});

test('check finds damage with exit code 1, and rebuild mends it', async () => {
  const key = await tenant.createKey();
  await appendUsage(database.kysely, tenant.organizationNumber, [{ key: key.number }, { key: key.number, kind: 2, status: 500 }]);
  // Appended past admission: the windows have not counted it either.
  expect(await runCli(['rebuild', '--only', 'usage,windows'], env)).toMatchObject({
    code: 0,
    out: expect.stringMatching(/^Windows: \d+ keys compared, 1 counted anew\.\nUsage: rebuilt up to position \d+\.$/m) as string,
  });
  expect(await runCli(['check'], env)).toMatchObject({ code: 0, err: '', out: expect.stringContaining('Nothing found') as string });
  await asAdmin(
    (admin) => admin.query("UPDATE keyledger.api_keys SET permissions = '{admin}' WHERE id = $1; ".replace('$1', `'${key.id}'`)),
    target.name,
  );
  await sql`UPDATE usage_counters SET failed = 0 WHERE grain = 3`.execute(database.kysely);
  const found = await runCli(['check', '--json'], env);
  expect(found.code).toBe(1);
  const lines = found.out
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as { kind?: string; subject?: string; findings?: number });
  expect(lines[0]).toEqual({ kind: 'row-differs', subject: `api_keys ${key.id} permissions`, expected: '[]', found: '["admin"]' });
  expect(lines.at(-1)).toMatchObject({ findings: lines.length - 1, interrupted: false });
  const mended = await runCli(['rebuild'], env);
  expect(mended).toMatchObject({ code: 0, err: '' });
  expect(mended.out).toContain(`written anew  api_keys ${key.id}`);
  expect(await runCli(['check'], env)).toMatchObject({ code: 0 });
});

test('Ctrl-C stops a rebuild with a word about how to go on, and the next run does', async () => {
  const blocker = new pg.Client({
    connectionString: target.serverUrl.reveal(),
    options: '-c search_path=keyledger -c role=keyledger_server',
  });
  await blocker.connect();
  try {
    // The rebuild is under way, and somebody else holds the page: the command waits for it again and again, as it would work through a long log.
    await blocker.query("UPDATE projections SET state = 'building', position = 1 WHERE state = 'retired'");
    await blocker.query("BEGIN; SELECT 1 FROM projections WHERE state = 'building' FOR KEY SHARE");
    const running = startCli(['rebuild'], env);
    await running.line(/^Balances: /); // what comes before usage, which now waits for the page
    running.child.kill('SIGINT');
    const stopped = await running.ended;
    expect(stopped).toMatchObject({
      code: 1,
      err: 'Interrupted at position 1. Run keyledger rebuild --only usage to go on from there; until then the statistics are read from the old tables.\n',
    });
  } finally {
    await blocker.end();
  }
  const second = await runCli(['rebuild', '--only', 'usage'], env);
  expect(second).toMatchObject({
    code: 0,
    err: '',
    out: expect.stringMatching(/^Usage: taken up where it had stopped, rebuilt up to/) as string,
  });
});
