import { getIntrospectionQuery } from 'graphql';

import { CONTRACT } from './contract-documents.ts';

/** What stands in a document or a header for what only a running server knows. */
export type Known = {
  readonly organizationId: string;
  readonly keySecret: string;
  readonly tokens: Readonly<Record<'owner' | 'auditor' | 'gateway', string>>;
};

export type HttpRequest = {
  readonly name: string;
  readonly method: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | Buffer;
  /** Whether Yoga has to be asked: for what is not plain in head or body, or in what is asked for. */
  readonly whole: boolean;
};

type Difference = { readonly [Field in 'method' | 'headers' | 'body' | 'whole']?: HttpRequest[Field] | undefined };

const JSON_TYPE = { 'content-type': 'application/json' };
const GRAPHQL_TYPE = 'application/graphql-response+json';

/** Requests of every kind that comes over HTTP, and what is wrong in every way we know; each can be sent twice and is answered the same. */
export function httpRequests({ organizationId, keySecret, tokens }: Known): readonly HttpRequest[] {
  const as = (token: string) => ({ ...JSON_TYPE, authorization: `Bearer ${token}` });
  const owner = as(tokens.owner);

  function request(name: string, body: unknown, { headers = owner, method = 'POST', whole = false }: Difference = {}): HttpRequest {
    return { name, method, headers, whole, body: typeof body === 'string' || Buffer.isBuffer(body) ? body : JSON.stringify(body) };
  }
  const verify = (name: string, input: object, difference?: Difference) =>
    request(`verifyApiKey: ${name}`, { query: CONTRACT.Verify, variables: { input } }, difference);
  const query = (name: string, text: string, variables: object = {}, difference?: Difference) =>
    request(name, { query: text, variables }, difference);

  const role = { query: '{ viewer { role } }' };
  const asking = { key: keySecret, cost: 0, requestId: 'asked' };
  const createKey = { organizationId, name: 'one key', type: 'SECRET', idempotencyKey: 'the same each time' };
  const DYNAMIC =
    'query ($no: Boolean!) { viewer { role @skip(if: $no) id: actorId @include(if: $no) ...V } } fragment V on Viewer { r: role }';
  const TWO = 'query A { viewer { role } } query B { viewer { actorId } }';
  const DEEP = `{ viewer { organization { apiKeys(first: 1) { edges { node ${'{ requestLog(first: 1) { edges { node { apiKey '.repeat(3)}{ id }${' } } } }'.repeat(3)} } } } } }`;

  return [
    request('a query', role),
    request('a query with everything in it', { ...role, variables: {}, operationName: null, extensions: {} }),
    request('a query without credentials', { query: '{ __typename }' }, { headers: JSON_TYPE }),
    request('a field that needs credentials, without', role, { headers: JSON_TYPE }),
    request('credentials that are unknown', role, { headers: as('kl_unknown') }),
    request('credentials of another scheme', role, { headers: { ...JSON_TYPE, authorization: 'Basic eDp5' } }),
    request('an Authorization header that is empty', role, { headers: { ...JSON_TYPE, authorization: '' } }),
    request('introspection', { query: getIntrospectionQuery() }),
    query('the contract: a page', CONTRACT.Keys, { organization: organizationId, first: 3 }),
    query('the contract: the viewer', CONTRACT.Viewer),
    query('the contract: the key is made once', CONTRACT.CreateApiKey, { input: createKey }),
    query('a mutation that is refused', CONTRACT.CreateApiKey, { input: { ...createKey, name: '', idempotencyKey: 'another' } }),
    query('a mutation that the role does not allow', CONTRACT.CreateApiKey, { input: createKey }, { headers: as(tokens.auditor) }),
    query('aliases, fragments and directives', DYNAMIC, { no: true }),
    query('aliases, fragments and directives, the other way', DYNAMIC, { no: false }),
    query('a union by fragments', 'query ($id: ID!) { node(id: $id) { __typename ... on Organization { name } } }', { id: organizationId }),
    request('one of two operations', { query: TWO, operationName: 'B' }),
    request('none of two operations', { query: TWO, operationName: 'C' }, { whole: true }),
    request('two operations, neither named', { query: TWO }, { whole: true }),
    request('an empty operationName', { ...role, operationName: '' }, { whole: true }),
    request('an operationName that is a number', { ...role, operationName: 1 }, { whole: true }),
    request('a document without an operation', { query: 'fragment V on Viewer { role }' }, { whole: true }),
    request('an empty document', { query: '' }, { whole: true }),
    request('a document that can not be parsed', { query: '{ viewer {' }, { whole: true }),
    request('a document that is not valid', { query: '{ viewer { nickname role(x: 1) } }' }, { whole: true }),
    request(
      'a document that is not valid, again',
      { query: '{ viewer { nickname role(x: 1) } }' },
      { whole: true, headers: as('kl_unknown') },
    ),
    request('a document with too many tokens', { query: `{ ${'node '.repeat(2100)} }` }, { whole: true }),
    request(
      'a document with too many aliases',
      { query: `{ ${Array.from({ length: 51 }, (_, i) => `a${i}: __typename`).join(' ')} }` },
      { whole: true },
    ),
    request('a document that is too deep', { query: DEEP }),
    query('a page that is too large', CONTRACT.Keys, { organization: organizationId, first: 101 }),
    query('an id of nobody', 'query ($id: ID!) { node(id: $id) { id } }', { id: 'nonsense' }),
    query('a variable that is missing', CONTRACT.Verify),
    query('a variable of the wrong type', CONTRACT.Verify, { input: { key: 5 } }),
    query('a variable of the wrong type, with credentials that are unknown', CONTRACT.Verify, { input: 5 }, { headers: as('kl_unknown') }),
    query('a variable that nobody declared', '{ viewer { role } }', { more: 1 }),
    query(
      'a moment that is none',
      'query ($at: DateTime!) { viewer { organization { name(asOf: $at) } } }',
      { at: 'soon' },
      { whole: true },
    ),
    query(
      'a subscription without SSE',
      CONTRACT.Tail,
      { organization: organizationId },
      { whole: true, headers: { ...owner, accept: 'application/json' } },
    ),
    query('a subscription without credentials', CONTRACT.Tail, { organization: organizationId }, { whole: true, headers: JSON_TYPE }),

    verify('a key that may pass', asking, { headers: as(tokens.gateway) }),
    verify('one that is recorded', { ...asking, cost: 1, requestId: 'recorded', ip: '203.0.113.7', endpoint: 'GET /v1/models' }),
    verify('a request id of another key', { ...asking, key: 'sk_live_x', cost: 1, requestId: 'recorded' }),
    verify('a key that is unknown', { ...asking, key: 'sk_live_unknown' }),
    verify('input that is refused', { ...asking, cost: -1, ip: 'nowhere' }),
    verify('input that is refused, with credentials that are unknown', { ...asking, cost: -1 }, { headers: as('kl_unknown') }),
    verify('credentials that are unknown', asking, { headers: as('kl_unknown') }),
    verify('credentials that look like a JWT', asking, { headers: as('eyJhbGciOiJSUzI1NiJ9.e30.c2ln') }),
    verify('no credentials', asking, { headers: JSON_TYPE }),
    verify('a role that may not verify', asking, { headers: as(tokens.auditor) }),
    query(
      'verifyApiKey: a role that may not verify asks under an alias',
      'mutation ($input: VerifyApiKeyInput!) { v: verifyApiKey(input: $input) { valid } }',
      { input: asking },
      { headers: as(tokens.auditor) },
    ),
    query(
      'verifyApiKey: everything of a key',
      `mutation ($input: VerifyApiKeyInput!) { verifyApiKey(input: $input) { __typename position httpStatus retryAfter quota limit
        quotas { window limit remaining } rateLimit { limit remaining }
        key { id keyId name type category permissions metadata expiresAt profileName profileSettings organizationId ownerId outdatedSecret } } }`,
      { input: asking },
    ),
    query(
      'verifyApiKey: twice in an operation',
      'mutation ($a: VerifyApiKeyInput!, $b: VerifyApiKeyInput!) { a: verifyApiKey(input: $a) { valid } b: verifyApiKey(input: $b) { code } }',
      { a: asking, b: { ...asking, key: 'sk_live_unknown' } },
    ),
    query(
      'verifyApiKey: left out by a directive',
      'mutation ($input: VerifyApiKeyInput!, $no: Boolean!) { verifyApiKey(input: $input) @skip(if: $no) { valid } }',
      { input: asking, no: true },
    ),
    query(
      'verifyApiKey: left out by a directive, with credentials that are unknown',
      'mutation ($input: VerifyApiKeyInput!, $no: Boolean!) { verifyApiKey(input: $input) @skip(if: $no) { valid } }',
      { input: asking, no: true },
      { headers: as('kl_unknown') },
    ),
    query(
      'verifyApiKey: nothing of it is left, with credentials that are unknown',
      'mutation ($input: VerifyApiKeyInput!, $no: Boolean!) { verifyApiKey(input: $input) { valid @skip(if: $no) } }',
      { input: asking, no: true },
      { headers: as('kl_unknown') },
    ),
    query(
      'verifyApiKey: in a fragment',
      'mutation ($input: VerifyApiKeyInput!) { ...M } fragment M on Mutation { verifyApiKey(input: $input) { valid ...P } } fragment P on VerifyApiKeyPayload { code }',
      { input: asking },
    ),
    query(
      'verifyApiKey: beside a field that costs nothing',
      'mutation ($input: VerifyApiKeyInput!) { __typename verifyApiKey(input: $input) { valid } }',
      { input: asking },
    ),
    query(
      'verifyApiKey: with its input in the document',
      `mutation { verifyApiKey(input: { key: "${keySecret}", cost: 0, requestId: "asked" }) { valid } }`,
    ),

    request('no JSON', '{"query":', { whole: true }),
    request('no body', '', { whole: true }),
    request('a byte order mark', `\uFEFF${JSON.stringify(role)}`, { whole: true }),
    request(
      'bytes that are no UTF-8',
      Buffer.concat([Buffer.from('{"query":"{ __typename }","operationName":"'), Buffer.from([0xff]), Buffer.from('"}')]),
      { whole: true },
    ),
    request('null', null, { whole: true }),
    request('a text', '"{ __typename }"', { whole: true }),
    request('a batch', [role, role], { whole: true }),
    request('a batch of one', [role], { whole: true }),
    request('no query', { variables: {} }, { whole: true }),
    request('a query that is null', { query: null }, { whole: true }),
    request('a query that is an object', { query: {} }, { whole: true }),
    request('a parameter that nobody knows', { ...role, id: 'x' }, { whole: true }),
    request('variables that are a list', { ...role, variables: [] }, { whole: true }),
    request('variables that are a text', { ...role, variables: '{}' }, { whole: true }),
    request('extensions that are a text', { ...role, extensions: 'x' }, { whole: true }),
    request('a persisted query', { extensions: { persistedQuery: { version: 1, sha256Hash: 'x' } } }, { whole: true }),
    request('variables named like parts of every object', { ...role, variables: { constructor: 1, toString: 2 } }),
    request('a __proto__ of its own', '{"query":"{ viewer { role } }","__proto__":{"x":1}}', { whole: true }),

    ...[
      GRAPHQL_TYPE,
      '*/*',
      'application/json, text/plain, */*',
      `${GRAPHQL_TYPE}, application/json`,
      `${GRAPHQL_TYPE},application/json;q=0.9`,
    ].flatMap((accept) => [
      request(`Accept: ${accept}`, role, { headers: { ...owner, accept } }),
      request(`Accept: ${accept}, of what fails`, { query: CONTRACT.Verify }, { headers: { ...owner, accept } }),
      request(`Accept: ${accept}, of what fails in a field`, role, { headers: { ...JSON_TYPE, accept } }),
      request(`Accept: ${accept}, without valid credentials`, role, { headers: { ...as('kl_unknown'), accept } }),
    ]),
    ...[
      'text/html',
      'application/xml',
      'text/event-stream',
      'multipart/mixed',
      'application/json; charset=utf-16',
      'application/*',
      '',
      `application/json, ${GRAPHQL_TYPE}`,
    ].map((accept) => request(`Accept: ${accept}`, role, { headers: { ...owner, accept }, whole: true })),
    ...['application/json; charset=utf-8', 'application/json;charset=utf-8'].map((type) =>
      request(`Content-Type: ${type}`, role, { headers: { ...owner, 'content-type': type } }),
    ),
    ...[
      'application/json; charset=latin1',
      'application/graphql+json',
      'Application/JSON',
      'text/plain',
      'application/jsonx',
      'multipart/form-data; boundary=x',
      'application/x-www-form-urlencoded',
    ].map((type) => request(`Content-Type: ${type}`, role, { headers: { ...owner, 'content-type': type }, whole: true })),
    request('a document as application/graphql', '{ viewer { role } }', {
      headers: { ...owner, 'content-type': 'application/graphql' },
      whole: true,
    }),
    request('no Content-Type', role, { headers: { authorization: `Bearer ${tokens.owner}` }, whole: true }),
    request('PUT', role, { method: 'PUT', whole: true }),
    request('DELETE', '', { method: 'DELETE', whole: true }),
    request('an origin that is listed', role, { headers: { ...owner, origin: 'https://console.example.com' } }),
    request('an origin that is not listed', role, { headers: { ...owner, origin: 'https://evil.example.com' } }),
    request('a body above the cap', { ...role, variables: { padding: 'x'.repeat(20_000) } }, { whole: true }),
  ];
}
