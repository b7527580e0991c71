import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { endProcess, startProcess, type ServerProcess } from '../process/server-process.ts';
import { CREATE, entrances, send } from './secret-entrances.ts';
import { createSecretScanner, type Canary } from './secret-scanner.ts';

const PEPPER = randomBytes(32);
const BOOTSTRAP_TOKEN = randomBytes(32).toString('hex');
const IDEMPOTENCY_KEY = randomBytes(24).toString('base64url');
const ISSUE =
  'mutation ($input: CreateAccessTokenInput!) { createAccessToken(input: $input) { __typename ... on CreateAccessTokenPayload { secret accessToken { id } } ... on UserError { code message } } }';

let root: string;
let server: ServerProcess;
let url: string;
let database: pg.Client;
let organization: string;
let keyId: string;
let canaries: readonly Canary[];
let scanner: ReturnType<typeof createSecretScanner>;
/** Everything that was answered, by what was asked, without what the contract shows once. */
const answers: { readonly asked: string; readonly text: string }[] = [];

beforeAll(async () => {
  root = await mkdtemp(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'keyledger-canary-'));
  await chmod(root, 0o755);
  server = startProcess({
    DATA_DIR: join(root, 'data'),
    BOOTSTRAP_TOKEN,
    KEY_PEPPERS: `p1:${PEPPER.toString('base64')}`,
    LOG_LEVEL: 'trace',
    KEY_OPERATIONS_PER_HOUR: '0',
  });
  url = await server.listening();
  const passwords = JSON.parse(await readFile(join(root, 'data', 'postgres-passwords.json'), 'utf8')) as { readonly superuser: string };
  const port = Number((await readFile(join(root, 'data', 'postgres', 'postmaster.pid'), 'utf8')).split('\n')[3]);
  database = new pg.Client({ host: '127.0.0.1', port, user: 'postgres', password: passwords.superuser, database: 'keyledger' });
  await database.connect();

  const { viewer } = await graphql<{ readonly viewer: { readonly organization: { readonly id: string } } }>(
    '{ viewer { organization { id } } }',
  );
  organization = viewer.organization.id;
  const key = await shownOnce(CREATE, {
    organizationId: organization,
    name: 'Canary key',
    type: 'SECRET',
    idempotencyKey: IDEMPOTENCY_KEY,
  });
  keyId = key.id;
  const token = await shownOnce(ISSUE, {
    organizationId: organization,
    name: 'Canary gateway',
    permissions: ['keys:verify', 'usage:write', 'log:read'],
  });
  canaries = [
    { name: 'key', text: key.secret },
    // Alone as well: it is what is secret of a key; the rest finds the key or checks the spelling.
    { name: 'secret part', text: key.secret.slice(24, 67) },
    { name: 'access token', text: token.secret },
    { name: 'BOOTSTRAP_TOKEN', text: BOOTSTRAP_TOKEN },
    { name: 'pepper', text: PEPPER.toString('base64') },
    { name: 'idempotency key', text: IDEMPOTENCY_KEY },
  ];
  // The public half of a key and its checksum are shown in masked forms.
  const secretOnly = canaries.map((canary) => (canary.name === 'key' ? { ...canary, text: canary.text.slice(24, 67) } : canary));
  scanner = createSecretScanner(secretOnly, [{ name: 'pepper', value: PEPPER }]);
});

afterAll(async () => {
  await database.end();
  await endProcess(server);
  await rm(root, { recursive: true, force: true });
});

/** What a creating mutation answers: one of the two objects. */
type Shown = { readonly secret: string; readonly apiKey?: { readonly id: string }; readonly accessToken?: { readonly id: string } };

/** The data of an answer; the caller knows what it selected. */
async function graphql<Data>(query: string, variables: Readonly<Record<string, unknown>> = {}): Promise<Data> {
  const answer = await fetch(`${url}/graphql`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${BOOTSTRAP_TOKEN}` },
    body: JSON.stringify({ query, variables }),
  });
  return ((await answer.json()) as { readonly data: Data }).data;
}

/** Runs a mutation whose answer shows a secret; the rest of that answer is kept for the search. */
async function shownOnce(
  query: string,
  input: Readonly<Record<string, unknown>>,
): Promise<{ readonly secret: string; readonly id: string }> {
  const data = await graphql<Readonly<Record<string, Shown>>>(query, { input });
  const [shown] = Object.values(data);
  if (shown === undefined) throw new Error('the mutation answered nothing');
  const text = JSON.stringify(data);
  expect(text.split(shown.secret)).toHaveLength(2);
  answers.push({ asked: 'the answer that shows it', text: text.replace(shown.secret, '') });
  return { secret: shown.secret, id: (shown.apiKey ?? shown.accessToken)?.id ?? '' };
}

/** Every cell of every table, and what the server's own views say of running statements. Bytes as hex and as they are. */
async function cells(): Promise<readonly { readonly place: string; readonly text: string }[]> {
  const raw = { getTypeParser: () => (value: string) => value };
  const { rows: tables } = await database.query<{ name: string }>(
    "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
  );
  const found: { place: string; text: string }[] = [];
  for (const name of [...tables.map((table) => table.name), 'pg_stat_activity', 'pg_prepared_statements', 'pg_description']) {
    const { rows } = await database.query<Record<string, string | null>>({ text: `SELECT * FROM ${name}`, types: raw });
    for (const row of rows) {
      for (const [column, value] of Object.entries(row)) {
        if (value === null) continue;
        const bytes = /^\\x[0-9a-f]*$/.test(value) ? Buffer.from(value.slice(2), 'hex').toString('latin1') : '';
        found.push({ place: `${name}.${column}`, text: `${value}\n${bytes}` });
      }
    }
  }
  return found;
}

const leaksIn = (places: readonly { readonly place: string; readonly text: string }[]) =>
  places.flatMap(({ place, text }) => scanner.find(text).map((name) => `${name} in ${place}`));

test('1.9 no secret that was ever sent or shown is found in an answer, a log line, a metric, an event or a table', async () => {
  for (const { name, text } of canaries) {
    const entered = entrances({ url, ownerToken: BOOTSTRAP_TOKEN, organization, keyId }, text).map(async ([entrance, enter]) => ({
      asked: `${name} by ${entrance}`,
      text: await enter().catch(String),
    }));
    answers.push(...(await Promise.all(entered)));
  }
  // An honest life beside it, so that there are events, a request log and statistics to look into.
  await graphql('mutation ($id: ID!) { deactivateApiKey(input: { id: $id }) { __typename } }', { id: keyId });
  const replayed = await graphql<Readonly<Record<string, Shown>>>(CREATE, {
    input: { organizationId: organization, name: 'Canary key', type: 'SECRET', idempotencyKey: IDEMPOTENCY_KEY },
  });
  expect(replayed['createApiKey']?.secret).toBe(canaries[0]?.text);

  const everything = await graphql(
    'query ($o: ID!) { node(id: $o) { ... on Organization { ledgerEvents(after: "0", first: 100) { edges { node { id type actorId data } } } accessTokens { edges { node { id name } } } apiKeys { edges { node { id name masked requestLog(first: 50) { edges { node { requestId endpoint } } } } } } } } }',
    { o: organization },
  );
  expect(JSON.stringify(everything)).toContain('KEY_CREATED');
  answers.push(
    { asked: 'the log', text: JSON.stringify(everything) },
    { asked: '/metrics', text: await send(url, '/metrics', {}) },
    { asked: '/readyz', text: await send(url, '/readyz', {}) },
  );

  // An entrance that could not be tried, or that ended in a fault of ours, would prove nothing.
  const failed = answers.filter(({ text }) => /^TypeError|INTERNAL_SERVER_ERROR/.test(text)).map(({ asked }) => asked);
  expect(failed).toEqual([]);
  expect(leaksIn(answers.map(({ asked, text }) => ({ place: `the answer to ${asked}`, text })))).toEqual([]);
  const log = `${server.stdout()}${server.stderr()}`.split('\n');
  expect(log.length).toBeGreaterThan(200);
  expect(leaksIn(log.map((line) => ({ place: `the log: ${line}`, text: line })))).toEqual([]);
  const stored = await cells();
  expect(new Set(stored.map(({ place }) => place)).size).toBeGreaterThan(100);
  expect(leaksIn(stored)).toEqual([]);
});

test('Postgres wrote none into its own log, even where a statement with one failed', async () => {
  // As a parameter, which is how the server sends it, and as a literal, which it never does.
  for (const { text } of canaries) {
    await expect(database.query('SELECT length($1::text) / 0', [text])).rejects.toMatchObject({ code: '22012' });
    await expect(database.query(`SELECT ${database.escapeLiteral(text)}, 1 / 0`)).rejects.toMatchObject({ code: '22012' });
  }
  await database.query("SELECT pg_sleep(0.1), 'end of the log' FROM no_such_table").catch(() => undefined);
  await expect.poll(() => server.stderr(), { timeout: 5000 }).toContain('no_such_table');
  const own = server
    .stderr()
    .split('\n')
    .filter((line) => line.includes('"postgres":'));
  expect(own.filter((line) => line.includes('division by zero'))).toHaveLength(2 * canaries.length);
  expect(leaksIn(own.map((line) => ({ place: line, text: line })))).toEqual([]);
});

test('the control: what is planted in a log line, an answer and a table is found, whole, in pieces and as bytes', async () => {
  for (const { name, text } of canaries) {
    expect(scanner.find(`{"level":20,"msg":"verified ${text}"}`)).toContain(name === 'key' ? 'secret part' : name);
    expect(scanner.find(text.slice(-31))).not.toEqual([]);
    for (const prefix of ['', 'x', 'xy'])
      expect(
        scanner.find(Buffer.from(`${prefix}${text.slice(0, 60)} and so on`).toString('base64')),
        `${name} after ${prefix}`,
      ).not.toEqual([]);
  }
  expect(scanner.find(canaries[0]?.text.slice(0, 24) ?? '')).toEqual([]);
  await database.query('CREATE TABLE keyledger.planted (note text, data bytea, nested jsonb)');
  try {
    const secret = canaries[1]?.text ?? '';
    await database.query('INSERT INTO keyledger.planted VALUES ($1, NULL, NULL), (NULL, $2, NULL), (NULL, NULL, $3), (NULL, $4, NULL)', [
      `a ${secret}`,
      Buffer.from(secret),
      JSON.stringify({ deep: [secret] }),
      PEPPER,
    ]);
    expect(leaksIn(await cells()).sort()).toEqual(
      ['keyledger.planted.data', 'keyledger.planted.data', 'keyledger.planted.nested', 'keyledger.planted.note']
        .flatMap((place, index) => (index === 1 ? [`pepper in ${place}`] : [`key in ${place}`, `secret part in ${place}`]))
        .sort(),
    );
  } finally {
    await database.query('DROP TABLE keyledger.planted');
  }
});
