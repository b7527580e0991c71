import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { createClient } from 'graphql-ws';
import pg from 'pg';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import WebSocket from 'ws';

import { endProcess, startProcess, type ServerProcess } from '../process/server-process.ts';
import { createSecretScanner, type Canary } from './secret-scanner.ts';

vi.setConfig({ testTimeout: 120_000, hookTimeout: 60_000 });

const PEPPER = randomBytes(32);
const BOOTSTRAP_TOKEN = randomBytes(32).toString('hex');
const IDEMPOTENCY_KEY = randomBytes(24).toString('base64url');
const CREATE = 'mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { __typename ... on CreateApiKeyPayload { secret apiKey { id keyId masked } } ... on UserError { code message } } }';
const ISSUE = 'mutation ($input: CreateAccessTokenInput!) { createAccessToken(input: $input) { __typename ... on CreateAccessTokenPayload { secret accessToken { id } } ... on UserError { code message } } }';

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
  server = startProcess({ DATA_DIR: join(root, 'data'), BOOTSTRAP_TOKEN, KEY_PEPPERS: `p1:${PEPPER.toString('base64')}`, LOG_LEVEL: 'trace', KEY_OPERATIONS_PER_HOUR: '0' });
  url = await server.listening();
  const passwords = JSON.parse(await readFile(join(root, 'data', 'postgres-passwords.json'), 'utf8')) as { readonly superuser: string };
  const port = Number((await readFile(join(root, 'data', 'postgres', 'postmaster.pid'), 'utf8')).split('\n')[3]);
  database = new pg.Client({ host: '127.0.0.1', port, user: 'postgres', password: passwords.superuser, database: 'keyledger' });
  await database.connect();

  const { viewer } = await graphql('{ viewer { organization { id } } }');
  organization = viewer.organization.id;
  const key = await shownOnce(CREATE, { organizationId: organization, name: 'Canary key', type: 'SECRET', idempotencyKey: IDEMPOTENCY_KEY });
  keyId = key.id;
  const token = await shownOnce(ISSUE, { organizationId: organization, name: 'Canary gateway', permissions: ['keys:verify', 'usage:write', 'log:read'] });
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

// oxlint-disable-next-line typescript/no-explicit-any -- the test knows what it selected
type Answered = Readonly<Record<string, any>>;

/** The text of an answer, status line and headers included. */
async function send(path: string, init: RequestInit): Promise<string> {
  const answer = await fetch(url + path, { ...init, signal: AbortSignal.timeout(1500) });
  const head = `${answer.status} ${[...answer.headers].map((pair) => pair.join(': ')).join('\n')}`;
  const chunks = [head];
  // A stream is read for as long as the signal lets it.
  const body = answer.body?.pipeThrough(new TextDecoderStream());
  try {
    for await (const chunk of body ?? []) chunks.push(chunk);
  } catch {
    chunks.push('(cut off)');
  }
  return chunks.join('');
}

const post = (path: string, body: string, token: string | null = BOOTSTRAP_TOKEN, headers: Readonly<Record<string, string>> = {}) =>
  send(path, { method: 'POST', body, headers: { 'content-type': 'application/json', ...(token === null ? {} : { authorization: `Bearer ${token}` }), ...headers } });

async function graphql(query: string, variables: Readonly<Record<string, unknown>> = {}): Promise<Answered> {
  const answer = await fetch(`${url}/graphql`, { method: 'POST', headers: { 'content-type': 'application/json', authorization: `Bearer ${BOOTSTRAP_TOKEN}` }, body: JSON.stringify({ query, variables }) });
  return ((await answer.json()) as { readonly data: Answered }).data;
}

/** Runs a mutation whose answer shows a secret; the rest of that answer is kept for the search. */
async function shownOnce(query: string, input: Readonly<Record<string, unknown>>): Promise<{ readonly secret: string; readonly id: string }> {
  const data = await graphql(query, { input });
  const [result] = Object.values(data) as [Answered];
  const text = JSON.stringify(data);
  expect(text.split(result['secret'])).toHaveLength(2);
  answers.push({ asked: 'the answer that shows it', text: text.replace(result['secret'], '') });
  return { secret: result['secret'], id: (result['apiKey'] ?? result['accessToken']).id };
}

/** Every way in, right and wrong, for one secret. Each is sent and its answer kept; one that can't be sent at all is no entrance. */
function entrances(secret: string): readonly (readonly [string, () => Promise<string>])[] {
  const literal = JSON.stringify(secret);
  const gql = (query: string, variables: Readonly<Record<string, unknown>> = {}, token: string | null = BOOTSTRAP_TOKEN) => () => post('/graphql', JSON.stringify({ query, variables }), token);
  const VERIFY = 'mutation ($input: VerifyApiKeyInput!) { verifyApiKey(input: $input) { __typename ... on VerifyApiKeyPayload { code message key { name } } ... on UserError { code message } } }';
  const key = 'Bearer ';
  return [
    ['verify', () => post('/v1/verify', JSON.stringify({ key: secret }))],
    ['verify with everything', () => post('/v1/verify', JSON.stringify({ key: secret, cost: 2, endpoint: 'GET /v1/models', ip: '203.0.113.7', origin: 'https://example.com', environment: 'live' }))],
    ['verify, cut off', () => post('/v1/verify', `{"key":${literal}`)],
    ['verify, no JSON', () => post('/v1/verify', `key=${secret}`)],
    ['verify, of another type', () => post('/v1/verify', `key=${secret}`, BOOTSTRAP_TOKEN, { 'content-type': 'application/x-www-form-urlencoded' })],
    ['verify, as a list', () => post('/v1/verify', JSON.stringify([secret]))],
    ['verify, in a wrong field', () => post('/v1/verify', JSON.stringify({ apiKey: secret }))],
    ['verify, as a field', () => post('/v1/verify', JSON.stringify({ [secret]: 1 }))],
    ...['permissions', 'cost', 'ip', 'environment'].map((field) => [`verify, as ${field}`, () => post('/v1/verify', JSON.stringify({ key: 'x', [field]: field === 'permissions' ? [`${secret} `] : secret }))] as const),
    ['verify, with a NUL', () => post('/v1/verify', JSON.stringify({ key: `${secret}\u0000` }))],
    ['verify, too large', () => post('/v1/verify', JSON.stringify({ key: secret.padEnd(70_000, secret) }))],
    ['verify, as the token', () => post('/v1/verify', JSON.stringify({ key: secret }), secret)],
    ['verify, with no token', () => post('/v1/verify', JSON.stringify({ key: secret }), null)],
    ['usage, as the token', () => post('/v1/usage', '[]', secret)],
    ['usage, in wrong fields', () => post('/v1/usage', JSON.stringify([{ keyId: secret, endpoint: 'GET /', status: 200, durationMs: 1 }]))],
    ['usage, as an unknown field', () => post('/v1/usage', JSON.stringify([{ endpoint: 'GET /', status: secret, durationMs: 1, [secret]: secret }]))],
    ['usage, as broken lines', () => post('/v1/usage', `{"keyId":${literal}\n`, BOOTSTRAP_TOKEN, { 'content-type': 'application/x-ndjson' })],
    ['another scheme', () => send('/v1/verify', { method: 'POST', body: '{}', headers: { authorization: `Basic ${secret}` } })],
    ['headers', () => post('/v1/verify', '{}', BOOTSTRAP_TOKEN, { 'x-api-key': secret, cookie: `token=${secret}`, 'x-gateway-token': secret, origin: `https://${secret.slice(0, 40)}.example.com` })],
    ['a query string', () => send(`/v1/verify?key=${encodeURIComponent(secret)}`, { method: 'POST' })],
    ['a path', () => send(`/v1/keys/${encodeURIComponent(secret)}`, {})],
    ['a path of graphql', () => send(`/graphql/${encodeURIComponent(secret)}`, {})],
    ['a method', () => send('/v1/verify', { method: 'DELETE', headers: { 'x-api-key': secret } })],
    ['GraphQL variables', gql(VERIFY, { input: { key: secret } })],
    ['GraphQL variables in a wrong field', gql(VERIFY, { input: { apiKey: secret } })],
    ['GraphQL variables as a field', gql(VERIFY, { input: { [secret]: 'x' } })],
    ['GraphQL variables of wrong types', gql(VERIFY, { input: { key: 'x', cost: secret, environment: secret, permissions: { a: secret } } })],
    ['GraphQL variables, a text for an object', gql(VERIFY, { input: secret })],
    ['GraphQL, an unused variable', gql('{ viewer { role } }', { key: secret })],
    ['a literal', gql(`mutation { verifyApiKey(input: { key: ${literal} }) { __typename } }`)],
    ['a literal in a wrong argument', gql(`mutation { verifyApiKey(key: ${literal}) { __typename } }`)],
    ['a literal of a wrong type', gql(`mutation { verifyApiKey(input: { key: "x", cost: ${literal}, environment: ${literal} }) { __typename } }`)],
    ['a literal in a document that ends early', gql(`mutation { verifyApiKey(input: { key: ${literal}`)],
    ['a text that is not ended', gql(`mutation { verifyApiKey(input: { key: "${secret}`)],
    ['a name in the document', gql(`{ ${secret.replaceAll(/\W/g, '_')} }`)],
    ['a document that is the secret', gql(secret)],
    ['the operation name', () => post('/graphql', JSON.stringify({ query: '{ viewer { role } }', operationName: secret }))],
    ['ids', gql('query ($id: ID!) { node(id: $id) { id } nodes(ids: [$id]) { id } }', { id: secret })],
    ['an encoded id', gql('query ($id: ID!) { node(id: $id) { id } }', { id: Buffer.from(`ApiKey:${secret}`).toString('base64') })],
    ['a cursor and a position', gql('query ($o: ID!, $s: String, $p: Position) { node(id: $o) { ... on Organization { apiKeys(after: $s) { totalCount } ledgerEvents(after: $p) { edges { cursor } } } } }', { o: organization, s: secret, p: secret })],
    ['moments and lists', gql(CREATE, { input: { organizationId: organization, name: 'Another', type: 'SECRET', expiresAt: secret, ipAllowlist: [secret] } })],
    ['an address range and an origin', gql(CREATE, { input: { organizationId: organization, name: 'Another', type: 'SECRET', ipAllowlist: [secret], allowedOrigins: [secret], permissions: [`${secret} `] } })],
    ['an idempotency key of a refused mutation', gql(CREATE, { input: { organizationId: organization, name: 'No', type: 'SECRET', idempotencyKey: secret } })],
    ['an idempotency key with another input', gql(CREATE, { input: { organizationId: organization, name: 'Another name', type: 'TEST', idempotencyKey: secret } })],
    ['a search for it', gql('query ($o: ID!, $s: String) { node(id: $o) { ... on Organization { apiKeys(filter: { search: $s }) { totalCount } } } }', { o: organization, s: secret })],
    ['the confirmation of a deletion', gql('mutation ($id: ID!, $n: String!) { deleteApiKey(input: { id: $id, confirmName: $n }) { ... on UserError { code message } } }', { id: keyId, n: secret })],
    ['a token of GraphQL', gql('{ viewer { role } }', {}, secret)],
    ['a GET of GraphQL', () => send(`/graphql?query=${encodeURIComponent(`{ node(id: ${literal}) { id } }`)}&variables=${encodeURIComponent(JSON.stringify({ a: secret }))}`, { headers: { authorization: key + BOOTSTRAP_TOKEN } })],
    ['a broken body of GraphQL', () => post('/graphql', `{"query":"{viewer{role}}","variables":{"key":${literal}`)],
    ['SSE as its token', () => post('/graphql', JSON.stringify({ query: 'subscription ($o: ID!) { ledgerEvents(organizationId: $o) { position } }', variables: { o: organization } }), secret, { accept: 'text/event-stream' })],
    ['SSE in its variables', () => post('/graphql', JSON.stringify({ query: 'subscription ($o: ID!, $p: Position) { ledgerEvents(organizationId: $o, after: $p) { position } }', variables: { o: organization, p: secret } }), BOOTSTRAP_TOKEN, { accept: 'text/event-stream' })],
    ['a socket with it as token', () => overSocket({ authorization: `Bearer ${secret}` }, '{ viewer { role } }')],
    ['a socket with it in other parameters', () => overSocket({ token: secret, [secret]: secret }, '{ viewer { role } }')],
    ['a socket in variables and a document', () => overSocket({ authorization: `Bearer ${BOOTSTRAP_TOKEN}` }, `query ($id: ID!) { node(id: $id) { id } nodes(ids: [${literal}]) { id } ${secret.replaceAll(/\W/g, '_')} }`, { id: secret })],
    ['a socket in a message that is none', () => rawSocket(secret)],
  ];
}

function overSocket(connectionParams: Record<string, unknown>, query: string, variables: Record<string, unknown> = {}): Promise<string> {
  return new Promise((resolve) => {
    const client = createClient({ url: `${url.replace('http', 'ws')}/graphql`, webSocketImpl: WebSocket, connectionParams, retryAttempts: 0 });
    let text = '';
    const end = (more?: unknown) => {
      // A closed socket is told by an event, whose fields are its prototype's.
      const { code, reason, message } = (more ?? {}) as { readonly code?: unknown; readonly reason?: unknown; readonly message?: unknown };
      resolve(`${text} ${JSON.stringify(more)} ${String(code)} ${String(reason)} ${String(message)}`);
      void client.dispose();
    };
    client.subscribe({ query, variables }, { next: (value) => (text += JSON.stringify(value)), error: end, complete: end });
  });
}

function rawSocket(text: string): Promise<string> {
  return new Promise((resolve) => {
    const socket = new WebSocket(`${url.replace('http', 'ws')}/graphql`, 'graphql-transport-ws');
    let heard = '';
    socket.on('open', () => socket.send(text)).on('message', (data: Buffer) => (heard += data.toString()));
    socket.on('error', () => undefined).on('close', (code, reason) => resolve(`${heard} ${code} ${reason.toString()}`));
  });
}

/** Every cell of every table, and what the server's own views say of running statements. Bytes as hex and as they are. */
async function cells(): Promise<readonly { readonly place: string; readonly text: string }[]> {
  const raw = { getTypeParser: () => (value: string) => value };
  const { rows: tables } = await database.query<{ name: string }>("SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')");
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

const leaksIn = (places: readonly { readonly place: string; readonly text: string }[]) => places.flatMap(({ place, text }) => scanner.find(text).map((name) => `${name} in ${place}`));

test('no secret that was ever sent or shown is found in an answer, a log line, a metric, an event or a table', async () => {
  for (const { name, text } of canaries) {
    const entered = entrances(text).map(async ([entrance, enter]) => ({ asked: `${name} by ${entrance}`, text: await enter().catch(String) }));
    answers.push(...(await Promise.all(entered)));
  }
  // An honest life beside it, so that there are events, a request log and statistics to look into.
  await graphql('mutation ($id: ID!) { deactivateApiKey(input: { id: $id }) { __typename } }', { id: keyId });
  const replayed = await graphql(CREATE, { input: { organizationId: organization, name: 'Canary key', type: 'SECRET', idempotencyKey: IDEMPOTENCY_KEY } });
  expect(replayed['createApiKey'].secret).toBe(canaries[0]?.text);

  const everything = await graphql('query ($o: ID!) { node(id: $o) { ... on Organization { ledgerEvents(after: "0", first: 100) { edges { node { id type actorId data } } } accessTokens { edges { node { id name } } } apiKeys { edges { node { id name masked requestLog(first: 50) { edges { node { requestId endpoint } } } } } } } } }', { o: organization });
  expect(JSON.stringify(everything)).toContain('KEY_CREATED');
  answers.push({ asked: 'the log', text: JSON.stringify(everything) }, { asked: '/metrics', text: await send('/metrics', {}) }, { asked: '/readyz', text: await send('/readyz', {}) });

  const failed = answers.filter(({ text }) => /INTERNAL_SERVER_ERROR/.test(text)).map(({ asked }) => asked);
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
  const own = server.stderr().split('\n').filter((line) => line.includes('"postgres":'));
  expect(own.filter((line) => line.includes('division by zero'))).toHaveLength(2 * canaries.length);
  expect(leaksIn(own.map((line) => ({ place: line, text: line })))).toEqual([]);
});

test('the control: what is planted in a log line, an answer and a table is found, whole, in pieces and as bytes', async () => {
  for (const { name, text } of canaries) {
    expect(scanner.find(`{"level":20,"msg":"verified ${text}"}`)).toContain(name === 'key' ? 'secret part' : name);
    expect(scanner.find(text.slice(-31))).not.toEqual([]);
    for (const prefix of ['', 'x', 'xy']) expect(scanner.find(Buffer.from(`${prefix}${text.slice(0, 60)} and so on`).toString('base64')), `${name} after ${prefix}`).not.toEqual([]);
  }
  expect(scanner.find(canaries[0]?.text.slice(0, 24) ?? '')).toEqual([]);
  await database.query('CREATE TABLE keyledger.planted (note text, data bytea, nested jsonb)');
  try {
    const secret = canaries[1]?.text ?? '';
    await database.query('INSERT INTO keyledger.planted VALUES ($1, NULL, NULL), (NULL, $2, NULL), (NULL, NULL, $3), (NULL, $4, NULL)', [`a ${secret}`, Buffer.from(secret), JSON.stringify({ deep: [secret] }), PEPPER]);
    expect(leaksIn(await cells()).sort()).toEqual(
      ['keyledger.planted.data', 'keyledger.planted.data', 'keyledger.planted.nested', 'keyledger.planted.note'].flatMap((place, index) => (index === 1 ? [`pepper in ${place}`] : [`key in ${place}`, `secret part in ${place}`])).sort(),
    );
  } finally {
    await database.query('DROP TABLE keyledger.planted');
  }
});
