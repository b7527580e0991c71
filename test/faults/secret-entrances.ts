import { createClient } from 'graphql-ws';
import WebSocket from 'ws';

/** Where secrets are sent to, by somebody who may do everything there. */
export type Target = { readonly url: string; readonly ownerToken: string; readonly organization: string; readonly keyId: string };

export const CREATE =
  'mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { __typename ... on CreateApiKeyPayload { secret apiKey { id keyId masked } } ... on UserError { code message } } }';

/** The text of an answer, status line and headers included. */
export async function send(url: string, path: string, init: RequestInit): Promise<string> {
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

/** Every way in, right and wrong, for one secret. Each is sent and its answer kept; one that can't be sent at all is no entrance. */
export function entrances(
  { url, ownerToken, organization, keyId }: Target,
  secret: string,
): readonly (readonly [string, () => Promise<string>])[] {
  const ask = (path: string, init: RequestInit) => send(url, path, init);
  const post = (path: string, body: string, token: string | null = ownerToken, headers: Readonly<Record<string, string>> = {}) =>
    ask(path, {
      method: 'POST',
      body,
      headers: { 'content-type': 'application/json', ...(token === null ? {} : { authorization: `Bearer ${token}` }), ...headers },
    });
  const literal = JSON.stringify(secret);
  const gql =
    (query: string, variables: Readonly<Record<string, unknown>> = {}, token: string | null = ownerToken) =>
    () =>
      post('/graphql', JSON.stringify({ query, variables }), token);
  const VERIFY =
    'mutation ($input: VerifyApiKeyInput!) { verifyApiKey(input: $input) { __typename ... on VerifyApiKeyPayload { code message key { name } } ... on UserError { code message } } }';
  const key = 'Bearer ';
  return [
    ['verify', () => post('/v1/verify', JSON.stringify({ key: secret }))],
    [
      'verify with everything',
      () =>
        post(
          '/v1/verify',
          JSON.stringify({
            key: secret,
            cost: 2,
            endpoint: 'GET /v1/models',
            ip: '203.0.113.7',
            origin: 'https://example.com',
            environment: 'live',
          }),
        ),
    ],
    ['verify, cut off', () => post('/v1/verify', `{"key":${literal}`)],
    ['verify, no JSON', () => post('/v1/verify', `key=${secret}`)],
    [
      'verify, of another type',
      () => post('/v1/verify', `key=${secret}`, ownerToken, { 'content-type': 'application/x-www-form-urlencoded' }),
    ],
    ['verify, as a list', () => post('/v1/verify', JSON.stringify([secret]))],
    ['verify, in a wrong field', () => post('/v1/verify', JSON.stringify({ apiKey: secret }))],
    ['verify, as a field', () => post('/v1/verify', JSON.stringify({ [secret]: 1 }))],
    ...['permissions', 'cost', 'ip', 'environment'].map(
      (field) =>
        [
          `verify, as ${field}`,
          () => post('/v1/verify', JSON.stringify({ key: 'x', [field]: field === 'permissions' ? [`${secret} `] : secret })),
        ] as const,
    ),
    ['verify, with a NUL', () => post('/v1/verify', JSON.stringify({ key: `${secret}\u0000` }))],
    ['verify, too large', () => post('/v1/verify', JSON.stringify({ key: secret.padEnd(70_000, secret) }))],
    ['verify, as the token', () => post('/v1/verify', JSON.stringify({ key: secret }), secret)],
    ['verify, with no token', () => post('/v1/verify', JSON.stringify({ key: secret }), null)],
    ['usage, as the token', () => post('/v1/usage', '[]', secret)],
    ['usage, in wrong fields', () => post('/v1/usage', JSON.stringify([{ keyId: secret, endpoint: 'GET /', status: 200, durationMs: 1 }]))],
    [
      'usage, as an unknown field',
      () => post('/v1/usage', JSON.stringify([{ endpoint: 'GET /', status: secret, durationMs: 1, [secret]: secret }])),
    ],
    ['usage, as broken lines', () => post('/v1/usage', `{"keyId":${literal}\n`, ownerToken, { 'content-type': 'application/x-ndjson' })],
    ['another scheme', () => ask('/v1/verify', { method: 'POST', body: '{}', headers: { authorization: `Basic ${secret}` } })],
    [
      'headers',
      () =>
        post('/v1/verify', '{}', ownerToken, {
          'x-api-key': secret,
          cookie: `token=${secret}`,
          'x-gateway-token': secret,
          origin: `https://${secret.slice(0, 40)}.example.com`,
        }),
    ],
    ['a query string', () => ask(`/v1/verify?key=${encodeURIComponent(secret)}`, { method: 'POST' })],
    ['a path', () => ask(`/v1/keys/${encodeURIComponent(secret)}`, {})],
    ['a path of graphql', () => ask(`/graphql/${encodeURIComponent(secret)}`, {})],
    ['a method', () => ask('/v1/verify', { method: 'DELETE', headers: { 'x-api-key': secret } })],
    ['GraphQL variables', gql(VERIFY, { input: { key: secret } })],
    ['GraphQL variables in a wrong field', gql(VERIFY, { input: { apiKey: secret } })],
    ['GraphQL variables as a field', gql(VERIFY, { input: { [secret]: 'x' } })],
    [
      'GraphQL variables of wrong types',
      gql(VERIFY, { input: { key: 'x', cost: secret, environment: secret, permissions: { a: secret } } }),
    ],
    ['GraphQL variables, a text for an object', gql(VERIFY, { input: secret })],
    ['GraphQL, an unused variable', gql('{ viewer { role } }', { key: secret })],
    ['a literal', gql(`mutation { verifyApiKey(input: { key: ${literal} }) { __typename } }`)],
    ['a literal in a wrong argument', gql(`mutation { verifyApiKey(key: ${literal}) { __typename } }`)],
    [
      'a literal of a wrong type',
      gql(`mutation { verifyApiKey(input: { key: "x", cost: ${literal}, environment: ${literal} }) { __typename } }`),
    ],
    ['a literal in a document that ends early', gql(`mutation { verifyApiKey(input: { key: ${literal}`)],
    ['a text that is not ended', gql(`mutation { verifyApiKey(input: { key: "${secret}`)],
    ['a name in the document', gql(`{ ${secret.replaceAll(/\W/g, '_')} }`)],
    ['a document that is the secret', gql(secret)],
    ['the operation name', () => post('/graphql', JSON.stringify({ query: '{ viewer { role } }', operationName: secret }))],
    ['ids', gql('query ($id: ID!) { node(id: $id) { id } nodes(ids: [$id]) { id } }', { id: secret })],
    ['an encoded id', gql('query ($id: ID!) { node(id: $id) { id } }', { id: Buffer.from(`ApiKey:${secret}`).toString('base64') })],
    [
      'a cursor and a position',
      gql(
        'query ($o: ID!, $s: String, $p: Position) { node(id: $o) { ... on Organization { apiKeys(after: $s) { totalCount } ledgerEvents(after: $p) { edges { cursor } } } } }',
        { o: organization, s: secret, p: secret },
      ),
    ],
    [
      'moments and lists',
      gql(CREATE, { input: { organizationId: organization, name: 'Another', type: 'SECRET', expiresAt: secret, ipAllowlist: [secret] } }),
    ],
    [
      'an address range and an origin',
      gql(CREATE, {
        input: {
          organizationId: organization,
          name: 'Another',
          type: 'SECRET',
          ipAllowlist: [secret],
          allowedOrigins: [secret],
          permissions: [`${secret} `],
        },
      }),
    ],
    [
      'an idempotency key of a refused mutation',
      gql(CREATE, { input: { organizationId: organization, name: 'No', type: 'SECRET', idempotencyKey: secret } }),
    ],
    [
      'an idempotency key with another input',
      gql(CREATE, { input: { organizationId: organization, name: 'Another name', type: 'TEST', idempotencyKey: secret } }),
    ],
    [
      'a search for it',
      gql('query ($o: ID!, $s: String) { node(id: $o) { ... on Organization { apiKeys(filter: { search: $s }) { totalCount } } } }', {
        o: organization,
        s: secret,
      }),
    ],
    [
      'the confirmation of a deletion',
      gql('mutation ($id: ID!, $n: String!) { deleteApiKey(input: { id: $id, confirmName: $n }) { ... on UserError { code message } } }', {
        id: keyId,
        n: secret,
      }),
    ],
    ['a token of GraphQL', gql('{ viewer { role } }', {}, secret)],
    [
      'a GET of GraphQL',
      () =>
        ask(
          `/graphql?query=${encodeURIComponent(`{ node(id: ${literal}) { id } }`)}&variables=${encodeURIComponent(JSON.stringify({ a: secret }))}`,
          { headers: { authorization: key + ownerToken } },
        ),
    ],
    ['a broken body of GraphQL', () => post('/graphql', `{"query":"{viewer{role}}","variables":{"key":${literal}`)],
    [
      'SSE as its token',
      () =>
        post(
          '/graphql',
          JSON.stringify({
            query: 'subscription ($o: ID!) { ledgerEvents(organizationId: $o) { position } }',
            variables: { o: organization },
          }),
          secret,
          { accept: 'text/event-stream' },
        ),
    ],
    [
      'SSE in its variables',
      () =>
        post(
          '/graphql',
          JSON.stringify({
            query: 'subscription ($o: ID!, $p: Position) { ledgerEvents(organizationId: $o, after: $p) { position } }',
            variables: { o: organization, p: secret },
          }),
          ownerToken,
          { accept: 'text/event-stream' },
        ),
    ],
    ['a socket with it as token', () => overSocket(url, { authorization: `Bearer ${secret}` }, '{ viewer { role } }')],
    ['a socket with it in other parameters', () => overSocket(url, { token: secret, [secret]: secret }, '{ viewer { role } }')],
    [
      'a socket in variables and a document',
      () =>
        overSocket(
          url,
          { authorization: `Bearer ${ownerToken}` },
          `query ($id: ID!) { node(id: $id) { id } nodes(ids: [${literal}]) { id } ${secret.replaceAll(/\W/g, '_')} }`,
          { id: secret },
        ),
    ],
    ['a socket in a message that is none', () => rawSocket(url, secret)],
  ];
}

function overSocket(
  url: string,
  connectionParams: Record<string, unknown>,
  query: string,
  variables: Record<string, unknown> = {},
): Promise<string> {
  return new Promise((resolve) => {
    const client = createClient({
      url: `${url.replace('http', 'ws')}/graphql`,
      webSocketImpl: WebSocket,
      connectionParams,
      retryAttempts: 0,
    });
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

function rawSocket(url: string, text: string): Promise<string> {
  return new Promise((resolve) => {
    const socket = new WebSocket(`${url.replace('http', 'ws')}/graphql`, 'graphql-transport-ws');
    let heard = '';
    socket.on('open', () => socket.send(text)).on('message', (data: Buffer) => (heard += data.toString()));
    socket.on('error', () => undefined).on('close', (code, reason) => resolve(`${heard} ${code} ${reason.toString()}`));
  });
}
