import { randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { ConfigError, readConfig } from '../src/config.ts';
import { loadOrCreatePepper } from '../src/identity/pepper-file.ts';

const pepper = randomBytes(32).toString('base64');
const token = randomBytes(24).toString('hex');

function faultsOf(env: NodeJS.ProcessEnv): readonly string[] {
  try {
    readConfig(env);
  } catch (error) {
    if (error instanceof ConfigError) return error.faults;
    throw error;
  }
  return [];
}

test('an empty environment gives the defaults and the embedded Postgres', () => {
  expect(readConfig({ PORT: '', LOG_LEVEL: ' ' })).toEqual({
    host: '127.0.0.1',
    port: 4000,
    databaseUrl: undefined,
    migrationDatabaseUrl: undefined,
    databasePoolSize: 10,
    dataDir: '.keyledger',
    bootstrapToken: undefined,
    keyPeppers: undefined,
    oidc: undefined,
    trustedProxies: [],
    webhookAllowPrivate: [],
    allowedOrigins: [],
    keyOperationsPerHour: 15,
    logLevel: 'info',
    shutdownGraceSeconds: 25,
    maxBodyBytes: 1_048_576,
    maxUsageBodyBytes: 16_777_216,
  });
});

test('every setting is taken', () => {
  const config = readConfig({
    HOST: '::1',
    PORT: '0',
    DATABASE_URL: 'postgres://app:p%40ss@db.example.com:5433/keyledger?sslmode=verify-full',
    MIGRATION_DATABASE_URL: 'postgresql://owner:word@db.example.com:5433/keyledger',
    DATABASE_POOL_SIZE: '20',
    DATA_DIR: '/var/lib/keyledger',
    BOOTSTRAP_TOKEN: token,
    KEY_PEPPERS: `new:${pepper}, old_1:${randomBytes(48).toString('base64url')}`,
    OIDC_ISSUER: 'https://id.example.com/realms/one',
    OIDC_AUDIENCE: 'keyledger',
    OIDC_ORGANIZATION_CLAIM: 'org',
    OIDC_ROLE_CLAIM: 'https://example.com/role',
    TRUSTED_PROXIES: '10.0.0.0/8, fd00::/8',
    ALLOWED_ORIGINS: 'https://console.example.com,http://localhost:5173',
    KEY_OPERATIONS_PER_HOUR: '0',
    LOG_LEVEL: 'debug',
    SHUTDOWN_GRACE_SECONDS: '5',
    MAX_BODY_BYTES: '65536',
    MAX_USAGE_BODY_BYTES: '65536',
  });
  expect(config).toMatchObject({
    host: '::1',
    port: 0,
    databasePoolSize: 20,
    dataDir: '/var/lib/keyledger',
    oidc: {
      issuer: 'https://id.example.com/realms/one',
      audience: 'keyledger',
      organizationClaim: 'org',
      roleClaim: 'https://example.com/role',
    },
    trustedProxies: ['10.0.0.0/8', 'fd00::/8'],
    allowedOrigins: ['https://console.example.com', 'http://localhost:5173'],
    keyOperationsPerHour: 0,
    logLevel: 'debug',
    shutdownGraceSeconds: 5,
    maxBodyBytes: 65_536,
    maxUsageBodyBytes: 65_536,
  });
  expect(config.databaseUrl?.reveal()).toContain('app:p%40ss@');
  expect(config.migrationDatabaseUrl?.reveal()).toContain('owner:word@');
  expect(config.bootstrapToken?.reveal()).toBe(token);
  expect(config.keyPeppers?.map(({ id, key }) => [id, key.length])).toEqual([
    ['new', 32],
    ['old_1', 48],
  ]);
});

test('no print of the settings shows a secret', () => {
  const config = readConfig({ DATABASE_URL: 'postgres://app:hunter2@h/db', BOOTSTRAP_TOKEN: token, KEY_PEPPERS: `p1:${pepper}` });
  const hex = Buffer.from(pepper, 'base64').toString('hex').slice(0, 16);
  for (const shown of [
    JSON.stringify(config),
    inspect(config, { depth: 9, showHidden: true }),
    String(config.keyPeppers),
    `${config.databaseUrl?.toString()}`,
  ]) {
    for (const secret of ['hunter2', token, pepper, hex]) expect(shown).not.toContain(secret);
  }
});

test('all faults are told at once, each with the variable, what is wrong and what would be right', () => {
  const faults = faultsOf({
    HOST: 'http://localhost',
    PORT: '70000',
    DATABASE_URL: 'mysql://root:hunter2@h/db',
    LOG_LEVEL: 'loud',
    TRUSTED_PROXIES: '10.0.0.1,10.0.0.0/33',
    ALLOWED_ORIGINS: 'example.com,https://example.com/path',
    OIDC_ISSUER: 'http://id.example.com',
    BOOTSTRAP_TOKEN: 'too short',
    KEY_OPERATIONS_PER_HOUR: '-1',
  });
  expect(faults.map((fault) => fault.split(' ')[0])).toEqual([
    'DATABASE_URL',
    'HOST',
    'BOOTSTRAP_TOKEN',
    'BOOTSTRAP_TOKEN',
    'KEY_PEPPERS',
    'TRUSTED_PROXIES',
    'TRUSTED_PROXIES',
    'ALLOWED_ORIGINS',
    'ALLOWED_ORIGINS',
    'LOG_LEVEL',
    'PORT',
    'OIDC_ISSUER',
    'OIDC_AUDIENCE',
    'KEY_OPERATIONS_PER_HOUR',
  ]);
  expect(faults).toContain('PORT is "70000"; it takes a whole number from 0 to 65535.');
  for (const fault of faults) {
    expect(fault).toMatch(/^[A-Z_]+ (is|has|can't|does|names) .+; .+\.$/);
    expect(fault).not.toContain('hunter2');
  }
});

describe('one fault', () => {
  test.each<[string, NodeJS.ProcessEnv, RegExp]>([
    ['a database URL without a database', { DATABASE_URL: 'postgres://h', KEY_PEPPERS: `p:${pepper}` }, /DATABASE_URL names no database/],
    ['a database URL that is none', { DATABASE_URL: 'postgres://h:port/db', KEY_PEPPERS: `p:${pepper}` }, /DATABASE_URL is no URL/],
    [
      'a migration login without a database URL',
      { MIGRATION_DATABASE_URL: 'postgres://h/db' },
      /MIGRATION_DATABASE_URL is set without DATABASE_URL/,
    ],
    ['an external database without peppers', { DATABASE_URL: 'postgres://h/db' }, /KEY_PEPPERS is not set but DATABASE_URL is/],
    ['a short pepper', { KEY_PEPPERS: `p:${randomBytes(31).toString('base64')}` }, /p has 31 bytes, it needs 32 at least/],
    ['a repeated pepper id', { KEY_PEPPERS: `p:${pepper},p:${pepper}` }, /the id p stands there twice/],
    ['a pepper without an id', { KEY_PEPPERS: pepper }, /entry 1 is not of the form id:base64/],
    ['a pepper with a bad id', { KEY_PEPPERS: `a.b:${pepper}` }, /entry 1 is not of the form/],
    ['a token with a space', { BOOTSTRAP_TOKEN: `${token} ${token}` }, /BOOTSTRAP_TOKEN has a space/],
    ['an audience without an issuer', { OIDC_AUDIENCE: 'keyledger' }, /OIDC_AUDIENCE is set without OIDC_ISSUER/],
    ['a number with a unit', { SHUTDOWN_GRACE_SECONDS: '10s' }, /SHUTDOWN_GRACE_SECONDS is "10s"; it takes a whole number/],
  ])('%s', (_name, env, message) => {
    const faults = faultsOf(env);
    expect(faults).toHaveLength(1);
    expect(faults[0]).toMatch(message);
    expect(faults[0]).not.toContain(pepper);
  });
});

describe('the pepper file of the embedded Postgres', () => {
  let dataDir: string;
  beforeAll(async () => {
    dataDir = await mkdtemp(join(tmpdir(), 'keyledger-pepper-'));
  });
  afterAll(() => rm(dataDir, { recursive: true }));

  test('is made once, by whichever process is first, for its owner alone, and read again', async () => {
    const all = await Promise.all(Array.from({ length: 5 }, () => loadOrCreatePepper(join(dataDir, 'new'))));
    const keys = new Set(all.map(([first]) => first?.key.toString('hex')));
    expect(keys.size).toBe(1);
    expect(all[0]?.map(({ id, key }) => [id, key.length])).toEqual([['p1', 32]]);
    expect((await stat(join(dataDir, 'new', 'key-peppers'))).mode & 0o777).toBe(0o600);
    expect((await loadOrCreatePepper(join(dataDir, 'new')))[0]?.key.toString('hex')).toBe([...keys][0]);
  });

  test('is not replaced when it is damaged', async () => {
    const path = join(dataDir, 'new', 'key-peppers');
    await writeFile(path, 'p1:');
    await expect(loadOrCreatePepper(join(dataDir, 'new'))).rejects.toThrow(/is damaged: .*Put it back from a backup/);
    expect(await readFile(path, 'utf8')).toBe('p1:');
  });
});
