import { afterAll, beforeAll, expect, it } from 'vitest';

import { createOidcVerifier } from '../../src/identity/oidc.ts';
import { newSigningKey, startLoopbackIssuer, type LoopbackIssuer } from '../identity/loopback-issuer.ts';
import { textMatching } from '../support/matching.ts';
import { openDataPlane, type DataPlane } from './data-plane.ts';

const AUDIENCE = 'https://keyledger.example';

let issuer: LoopbackIssuer;
let plane: DataPlane;

beforeAll(async () => {
  issuer = await startLoopbackIssuer(await newSigningKey('ES256', 'one'));
  const oidc = createOidcVerifier({
    issuer: issuer.url,
    audience: AUDIENCE,
    organizationClaim: 'organization',
    roleClaim: 'role',
    fetchTimeoutMs: 2000,
    cooldownMs: 0,
  });
  plane = await openDataPlane({ oidc });
});
afterAll(async () => {
  await plane.close();
  await issuer.goDown();
});

function jwt(role: string, organization = plane.ledger.organization.id): Promise<string> {
  return issuer.token({ audience: AUDIENCE, claims: { organization, role } });
}

it('a JWT of the OIDC provider verifies keys of its organization and reports their usage', async () => {
  const token = await jwt('OWNER');
  const { secret, keyId } = await plane.ledger.newKey();
  const verified = await plane.post('/v1/verify', { key: secret }, { token });
  expect(verified).toMatchObject({ status: 200, body: { code: 'VALID', key: { id: keyId } } });
  const item = { requestId: verified.body['requestId'], endpoint: 'GET /', status: 200, durationMs: 1 };
  expect(await plane.post('/v1/usage', item, { token })).toMatchObject({ status: 200, body: { accepted: 1 } });
});

it('a JWT whose role may not verify is forbidden to', async () => {
  const token = await jwt('AUDITOR');
  expect(await plane.post('/v1/verify', { key: 'x' }, { token })).toMatchObject({
    status: 403,
    body: { error: { message: textMatching("'keys:verify'") } },
  });
  expect(await plane.post('/v1/usage', [], { token })).toMatchObject({
    status: 403,
    body: { error: { message: textMatching("'usage:write'") } },
  });
});

it('a JWT of another organization finds no key, and one of none is refused', async () => {
  const other = await plane.ledger.newOrganization('Other');
  const { secret } = await plane.ledger.newKey();
  expect(await plane.post('/v1/verify', { key: secret }, { token: await jwt('OWNER', other.id) })).toMatchObject({
    status: 200,
    body: { code: 'INVALID_KEY' },
  });
  expect(await plane.post('/v1/verify', { key: secret }, { token: await jwt('OWNER', 'nowhere') })).toMatchObject({ status: 401 });
});

it('a malformed question is told before the caller is looked up', async () => {
  expect(await plane.post('/v1/verify', {}, { token: await jwt('OWNER') })).toMatchObject({
    status: 400,
    body: { error: { field: 'key' } },
  });
});

it('where the provider can not be asked, the answer is 503', async () => {
  await using elsewhere = await startLoopbackIssuer(await newSigningKey('ES256', 'two'));
  const oidc = createOidcVerifier({
    issuer: elsewhere.url,
    audience: AUDIENCE,
    organizationClaim: 'organization',
    roleClaim: 'role',
    fetchTimeoutMs: 500,
  });
  const token = await elsewhere.token({ audience: AUDIENCE, claims: { organization: plane.ledger.organization.id, role: 'OWNER' } });
  const second = await openDataPlane({ on: plane.ledger, oidc });
  elsewhere.answerWith((_request, response) => response.writeHead(500).end());
  try {
    const { status, headers } = await second.post('/v1/verify', { key: 'x' }, { token });
    expect({ status, retry: headers.get('retry-after') }).toEqual({ status: 503, retry: '1' });
  } finally {
    await second.close();
  }
});
