import { getNamedType, isLeafType, isObjectType, type GraphQLNamedType } from 'graphql';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';

import { AdmissionUnavailableError, type VerifyCaller } from '../../src/admission/admission.ts';
import { buildSchema } from '../../src/graphql/schema.ts';
import { at } from './at.ts';
import { openTestGraphql, type TestGraphql } from './graphql-server.ts';

const VERIFY = 'mutation ($input: VerifyApiKeyInput!) { verifyApiKey(input: $input) { code quotas { remaining } position } }';

describe('a token that the verification checks itself', () => {
  let server: TestGraphql;
  let secret: string;
  let callers: VerifyCaller['kind'][] = [];
  /** What happens after the ledger's answer. */
  let then: () => void = () => undefined;
  beforeAll(async () => {
    server = await openTestGraphql({
      admission: (admission) => ({
        ...admission,
        async verify(caller, request) {
          callers.push(caller.kind);
          const answer = await admission.verify(caller, request);
          then();
          return answer;
        },
      }),
    });
    ({ secret } = await server.ledger.newKey({ quotas: { total: 1000 } }));
  });
  beforeEach(() => {
    callers = [];
    then = () => undefined;
  });
  afterAll(() => server.close());

  const verify = (input: object = {}, token: string | null = server.ownerToken) =>
    server.query(VERIFY, { input: { key: secret, ...input } }, token);
  const remaining = async () => at((await verify({ cost: 0 })).data, 'verifyApiKey.quotas.0.remaining') as number;

  it('is looked up by no statement of its own, and the request counts once', async () => {
    const before = await remaining();
    callers = [];
    expect((await verify()).errors).toEqual([]);
    expect(callers).toEqual(['token']);
    expect(await remaining()).toBe(before - 1);
  });

  it('is looked up in the ordinary way where it is no good, and so is that of a caller who may not verify', async () => {
    expect(await verify({}, 'klat_unknown')).toMatchObject({ status: 401, errors: [{ extensions: { code: 'UNAUTHENTICATED' } }] });
    const { token } = await server.newMember('AUDITOR');
    const forbidden = await verify({}, token);
    expect(forbidden.errors).toMatchObject([{ path: ['verifyApiKey'], extensions: { code: 'FORBIDDEN', permission: 'keys:verify' } }]);
    expect(callers).toEqual(['token', 'token']);
  });

  it('holds no longer once it is revoked', async () => {
    const { id, token } = await server.tokenOf({ permissions: ['keys:verify'] });
    expect((await verify({ cost: 0 }, token)).errors).toEqual([]);
    await server.ledger.tokens.revoke(server.ledger.owner, { id });
    expect(await verify({ cost: 0 }, token)).toMatchObject({ status: 401 });
  });

  it('a request id that belongs to another key is refused as what it is', async () => {
    const other = await server.ledger.newKey();
    expect((await verify({ requestId: 'taken' })).errors).toEqual([]);
    expect((await verify({ requestId: 'taken', key: other.secret })).errors).toMatchObject([
      {
        message: "'requestId': Another request has this id already; choose another one.",
        path: ['verifyApiKey'],
        extensions: { code: 'BAD_USER_INPUT' },
      },
    ]);
  });

  it('a verification that may have been recorded is not made again', async () => {
    const before = await remaining();
    callers = [];
    then = () => {
      throw new AdmissionUnavailableError('cut off', { retryAfterSeconds: 1 });
    };
    expect(await verify()).toMatchObject({ status: 503, errors: [{ extensions: { code: 'SERVICE_UNAVAILABLE', retryAfter: 1 } }] });
    expect(callers).toEqual(['token']);
    then = () => undefined;
    expect(await remaining()).toBe(before - 1);
  });

  it.each([
    ['beside another field', 'mutation ($input: VerifyApiKeyInput!) { __typename verifyApiKey(input: $input) { code } }'],
    ['twice', 'mutation ($input: VerifyApiKeyInput!) { a: verifyApiKey(input: $input) { code } b: verifyApiKey(input: $input) { code } }'],
    ['with a directive', 'mutation ($input: VerifyApiKeyInput!) { verifyApiKey(input: $input) @include(if: true) { code } }'],
  ])('is looked up before an operation that asks %s', async (_how, query) => {
    expect((await server.query(query, { input: { key: secret, cost: 0 } })).errors).toEqual([]);
    expect(new Set(callers)).toEqual(new Set(['organization']));
  });
});

it('nothing that verifyApiKey answers leads to what asks who calls', () => {
  const found = new Set<string>();
  const visit = (type: GraphQLNamedType): void => {
    if (isLeafType(type) || found.has(type.name)) return;
    found.add(type.name);
    if (isObjectType(type)) for (const field of Object.values(type.getFields())) visit(getNamedType(field.type));
  };
  const field = buildSchema().getMutationType()?.getFields()['verifyApiKey'];
  if (field === undefined) throw new Error('there is no verifyApiKey');
  visit(getNamedType(field.type));
  // Each of these is made of what admission answered. A type that needs the caller has to be authenticated before: see src/graphql/plain-post.ts.
  expect([...found]).toEqual(['VerifyApiKeyPayload', 'VerifiedApiKey', 'VerifiedQuota', 'VerifiedRateLimit']);
});
