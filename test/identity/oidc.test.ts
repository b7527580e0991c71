import { exportSPKI, SignJWT, UnsecuredJWT } from 'jose';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { OidcFailure, OidcIdentity, OidcOptions, OidcVerifier } from '../../src/identity/oidc.ts';
import { createOidcVerifier } from '../../src/identity/oidc.ts';
import type { LoopbackIssuer, SigningKey } from './loopback-issuer.ts';
import { newSigningKey, startLoopbackIssuer } from './loopback-issuer.ts';

const AUDIENCE = 'https://keyledger.test/graphql';
const CLAIMS = { org: 'acme', role: 'ADMIN', name: 'Ada', email: 'ada@acme.test' };

const keys: Record<'first' | 'second' | 'foreign', SigningKey> = {
  first: await newSigningKey('RS256', 'first'),
  second: await newSigningKey('ES256', 'second'),
  foreign: await newSigningKey('RS256', 'first'),
};

function verifierOf(issuer: LoopbackIssuer, options: Partial<OidcOptions> = {}): OidcVerifier {
  return createOidcVerifier({
    issuer: issuer.url,
    audience: AUDIENCE,
    organizationClaim: 'org',
    roleClaim: 'role',
    fetchTimeoutMs: 2_000,
    ...options,
  });
}

function sign(
  issuer: LoopbackIssuer,
  key: SigningKey,
  claims: Record<string, unknown> = {},
  header: Record<string, unknown> = {},
): Promise<string> {
  const now = Math.floor(Date.now() / 1000);
  return new SignJWT({ iss: issuer.url, aud: AUDIENCE, sub: 'user-1', exp: now + 600, iat: now, ...CLAIMS, ...claims })
    .setProtectedHeader({ alg: key.alg, kid: key.jwk.kid, typ: 'at+jwt', ...header })
    .sign(key.privateKey);
}

async function refusal(outcome: Promise<OidcIdentity | OidcFailure>): Promise<string> {
  const result = await outcome;
  return result.ok ? 'accepted' : `${result.kind}: ${result.reason}`;
}

function fetches(issuer: LoopbackIssuer): number {
  return issuer.requests.filter((path) => path === '/jwks').length;
}

describe('a verifier of one issuer', () => {
  let issuer: LoopbackIssuer;
  let verifier: OidcVerifier;

  beforeAll(async () => {
    issuer = await startLoopbackIssuer(keys.first);
    verifier = verifierOf(issuer);
  });
  afterAll(() => issuer[Symbol.asyncDispose]());

  it('reads subject, organization, role, name and expiry from an access token of a real provider', async () => {
    const token = await issuer.token({ audience: AUDIENCE, claims: CLAIMS });
    const result = await verifier.verify(token);

    expect(result).toMatchObject({
      ok: true,
      subject: 'gateway',
      organization: 'acme',
      role: 'ADMIN',
      name: 'Ada',
      email: 'ada@acme.test',
    });
    const lifetimeMs = result.ok ? result.expiresAt.getTime() - Date.now() : 0;
    expect(lifetimeMs).toBeGreaterThan(3_500_000);
    expect(lifetimeMs).toBeLessThanOrEqual(3_600_000);
  });

  it('fetches the keys once for many tokens at the same time', async () => {
    const own = verifierOf(issuer);
    const token = await issuer.token({ audience: AUDIENCE, claims: CLAIMS });
    const before = fetches(issuer);
    const results = await Promise.all(Array.from({ length: 20 }, () => own.verify(token)));

    expect(results.every((result) => result.ok)).toBe(true);
    expect(fetches(issuer) - before).toBe(1);
  });

  it('takes no role for null, and leaves out a name and an unverified address', async () => {
    const token = await sign(issuer, keys.first, { exp: 4_102_444_800, role: undefined, name: undefined, email_verified: false });
    const result = await verifier.verify(token);

    expect(result).toEqual({ ok: true, subject: 'user-1', organization: 'acme', role: null, expiresAt: new Date('2100-01-01') });
  });

  it('takes claim names literally, as namespaced claims are addresses', async () => {
    const own = verifierOf(issuer, { organizationClaim: 'https://acme.test/org.id' });
    const token = await sign(issuer, keys.first, { 'https://acme.test/org.id': 'acme-2' });

    expect(await own.verify(token)).toMatchObject({ ok: true, organization: 'acme-2' });
  });

  it('accepts the types at+jwt, application/at+jwt, JWT and none', async () => {
    for (const typ of ['at+jwt', 'application/at+jwt', 'AT+JWT', 'JWT', undefined]) {
      expect(await refusal(verifier.verify(await sign(issuer, keys.first, {}, { typ })))).toBe('accepted');
    }
  });

  it('refuses a token made for another use by its type', async () => {
    for (const typ of ['logout+jwt', 'dpop+jwt', 'secevent+jwt']) {
      expect(await refusal(verifier.verify(await sign(issuer, keys.first, {}, { typ })))).toMatch(/^refused: the type/);
    }
  });

  it('refuses a real token of another provider, without asking that provider or fetching again', async () => {
    await using other = await startLoopbackIssuer(keys.foreign);
    const token = await other.token({ audience: AUDIENCE, claims: CLAIMS });
    const before = [issuer.requests.length, other.requests.length];

    expect(await refusal(verifier.verify(token))).toBe('refused: another issuer');
    expect([issuer.requests.length, other.requests.length]).toEqual(before);
  });

  it("refuses a token that claims this issuer and this key's id but was signed by another key", async () => {
    expect(await refusal(verifier.verify(await sign(issuer, keys.foreign)))).toMatch(/^refused: ERR_JWS_SIGNATURE/);
  });

  it('refuses a token that was changed after it was signed', async () => {
    const [header = '', , signature = ''] = (await sign(issuer, keys.first)).split('.');
    const claims = { iss: issuer.url, aud: AUDIENCE, sub: 'root', exp: Math.floor(Date.now() / 1000) + 600, ...CLAIMS };
    const forged = `${header}.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.${signature}`;

    expect(await refusal(verifier.verify(forged))).toMatch(/^refused: ERR_JWS_SIGNATURE/);
  });

  it('refuses the algorithm none', async () => {
    const token = new UnsecuredJWT({ ...CLAIMS })
      .setIssuer(issuer.url)
      .setAudience(AUDIENCE)
      .setSubject('user-1')
      .setExpirationTime('10m')
      .encode();

    expect(await refusal(verifier.verify(token))).toMatch(/^refused: the algorithm/);
  });

  it('refuses HS256 with the public key as its secret', async () => {
    const secret = new TextEncoder().encode(await exportSPKI(keys.first.publicKey));
    const token = await new SignJWT({ ...CLAIMS })
      .setProtectedHeader({ alg: 'HS256', kid: 'first', typ: 'at+jwt' })
      .setIssuer(issuer.url)
      .setAudience(AUDIENCE)
      .setSubject('user-1')
      .setExpirationTime('10m')
      .sign(secret);

    expect(await refusal(verifier.verify(token))).toMatch(/^refused: the algorithm/);
  });

  it('refuses a token for another audience, and one for none', async () => {
    const token = await issuer.token({ audience: 'https://other.test/', claims: CLAIMS });

    expect(await refusal(verifier.verify(token))).toMatch(/^refused: ERR_JWT_CLAIM_VALIDATION_FAILED: aud$/);
    expect(await refusal(verifier.verify(await sign(issuer, keys.first, { aud: undefined })))).toMatch(/: aud$/);
  });

  it('accepts a token until 30 seconds past its expiry, for clocks that differ, and refuses it after', async () => {
    const expiresAtSeconds = Math.floor(Date.now() / 1000) + 600;
    const token = await sign(issuer, keys.first, { exp: expiresAtSeconds });
    const at = (seconds: number): OidcVerifier => verifierOf(issuer, { clock: () => new Date((expiresAtSeconds + seconds) * 1000) });

    expect(await refusal(at(29).verify(token))).toBe('accepted');
    expect(await refusal(at(31).verify(token))).toMatch(/^refused: ERR_JWT_EXPIRED/);
  });

  it('refuses a token that is not valid yet', async () => {
    const token = await sign(issuer, keys.first, { nbf: Math.floor(Date.now() / 1000) + 300 });

    expect(await refusal(verifier.verify(token))).toMatch(/^refused: .*: nbf$/);
  });

  it('refuses a token without expiry, subject or organization, or with a role that is no text', async () => {
    expect(await refusal(verifier.verify(await sign(issuer, keys.first, { exp: undefined })))).toMatch(/^refused: .*: exp$/);
    expect(await refusal(verifier.verify(await sign(issuer, keys.first, { sub: undefined })))).toMatch(/^refused: .*: sub$/);
    expect(await refusal(verifier.verify(await sign(issuer, keys.first, { role: ['OWNER', 'MEMBER'] })))).toMatch(/^refused: the role/);
    expect(await refusal(verifier.verify(await sign(issuer, keys.first, { org: '' })))).toMatch(/^refused: the organization/);
    expect(await refusal(verifier.verify(await sign(issuer, keys.first, { exp: 1e300 })))).toBe('refused: exp is not a date');
    const token = await issuer.token({ audience: AUDIENCE, claims: { role: 'ADMIN' } });
    expect(await refusal(verifier.verify(token))).toMatch(/^refused: the organization claim "org"/);
  });

  it('refuses a token that is bound to a key of its client, which a bearer can not prove', async () => {
    expect(await refusal(verifier.verify(await sign(issuer, keys.first, { cnf: { jkt: 'x' } })))).toMatch(/^refused: .*cnf/);
  });

  it('refuses noise without a fetch, and never repeats any of it', async () => {
    const before = issuer.requests.length;
    for (const noise of ['', 'canary', 'canary.canary.canary', `eyJ${'canary'.repeat(5_000)}`, '..', 'e30.e30.']) {
      const reason = await refusal(verifier.verify(noise));
      expect(reason).toMatch(/^refused: /);
      expect(reason).not.toContain('canary');
    }
    expect(issuer.requests.length).toBe(before);
  });

  it('does not turn forged key ids into requests to the issuer', async () => {
    const forge = async (own: OidcVerifier): Promise<number> => {
      expect(await refusal(own.verify(await sign(issuer, keys.first)))).toBe('accepted');
      const before = fetches(issuer);
      for (let forged = 0; forged < 5; forged += 1) {
        expect(await refusal(own.verify(await sign(issuer, keys.foreign, {}, { kid: `forged-${forged}` })))).toMatch(/NO_MATCHING_KEY$/);
      }
      return fetches(issuer) - before;
    };
    expect(await forge(verifierOf(issuer))).toBe(0);
    // The control: without a cool-down each one is a request.
    expect(await forge(verifierOf(issuer, { cooldownMs: 0 }))).toBe(5);
  });

  it('names no header of the token in its reason', async () => {
    const [, payload = '', signature = ''] = (await sign(issuer, keys.first)).split('.');
    const header = Buffer.from(JSON.stringify({ alg: 'RS256', kid: 'first', crit: ['canary'], canary: true })).toString('base64url');
    expect(await refusal(verifier.verify(`${header}.${payload}.${signature}`))).toBe('refused: ERR_JOSE_NOT_SUPPORTED');
  });
});

describe('a change at the issuer', () => {
  it('needs no restart: a rotated key is fetched when a token names it, and the withdrawn one is refused', async () => {
    await using issuer = await startLoopbackIssuer(keys.first);
    const verifier = verifierOf(issuer, { cooldownMs: 0 });
    const old = await issuer.token({ audience: AUDIENCE, claims: CLAIMS });
    expect(await refusal(verifier.verify(old))).toBe('accepted');

    issuer.rotateTo(keys.second);
    const token = await issuer.token({ audience: AUDIENCE, claims: CLAIMS });
    expect(await refusal(verifier.verify(token))).toBe('accepted');
    expect(await refusal(verifier.verify(old))).toMatch(/^refused: ERR_JWKS_NO_MATCHING_KEY/);
  });

  it('is told apart from a bad token while the issuer is down, and is over when it is back', async () => {
    await using issuer = await startLoopbackIssuer(keys.first);
    const verifier = verifierOf(issuer, { cooldownMs: 0 });
    const token = await issuer.token({ audience: AUDIENCE, claims: CLAIMS });
    await issuer.goDown();

    expect(await refusal(verifier.verify(token))).toMatch(/^unavailable: http:.*ECONNREFUSED/);
    expect(await refusal(verifier.verify('noise'))).toBe('refused: not a JWT');

    await issuer.comeBack();
    expect(await refusal(verifier.verify(token))).toBe('accepted');
  });

  it('leaves tokens alone whose keys are known, while an unknown key can not be fetched', async () => {
    await using issuer = await startLoopbackIssuer(keys.first);
    const verifier = verifierOf(issuer, { cooldownMs: 0 });
    const token = await issuer.token({ audience: AUDIENCE, claims: CLAIMS });
    expect(await refusal(verifier.verify(token))).toBe('accepted');
    await issuer.goDown();

    expect(await refusal(verifier.verify(await sign(issuer, keys.second)))).toMatch(/^unavailable: /);
    expect(await refusal(verifier.verify(token))).toBe('accepted');
    await issuer.comeBack();
  });

  it('is not asked for again during the cool-down, by however many tokens', async () => {
    await using issuer = await startLoopbackIssuer(keys.first);
    const token = await issuer.token({ audience: AUDIENCE, claims: CLAIMS });
    issuer.answerWith((_, response) => response.writeHead(500).end());
    const verifier = verifierOf(issuer, { cooldownMs: 60_000 });
    const before = issuer.requests.length;
    for (let attempt = 0; attempt < 5; attempt += 1) {
      expect(await refusal(verifier.verify(token))).toMatch(/^unavailable: .*answered 500/);
    }
    expect(issuer.requests.length - before).toBe(1);

    // The control: without a cool-down each attempt asks.
    const eager = verifierOf(issuer, { cooldownMs: 0 });
    for (let attempt = 0; attempt < 5; attempt += 1) {
      await eager.verify(token);
    }
    expect(issuer.requests.length - before).toBe(6);
  });

  it('does not hold a request longer than the timeout', async () => {
    await using issuer = await startLoopbackIssuer(keys.first);
    const token = await issuer.token({ audience: AUDIENCE, claims: CLAIMS });
    issuer.answerWith(() => undefined);
    const verifier = verifierOf(issuer, { fetchTimeoutMs: 100 });

    expect(await refusal(verifier.verify(token))).toMatch(/^unavailable: .*timeout/);
  });

  it('counts as unavailable where the documents are unfit', async () => {
    await using issuer = await startLoopbackIssuer(keys.first);
    const token = await issuer.token({ audience: AUDIENCE, claims: CLAIMS });
    const keySet = { keys: [{ ...keys.first.jwk, d: undefined, p: undefined, q: undefined, dp: undefined, dq: undefined, qi: undefined }] };
    const serve = (discovery: unknown, jwks: unknown): OidcVerifier => {
      issuer.answerWith((request, response) => response.end(JSON.stringify(request.url === '/jwks' ? jwks : discovery)));
      return verifierOf(issuer);
    };
    const fit = { issuer: issuer.url, jwks_uri: `${issuer.url}/jwks` };

    expect(await refusal(serve({ ...fit, issuer: 'https://other.test' }, keySet).verify(token))).toMatch(/^unavailable: .*another issuer/);
    expect(await refusal(serve({ ...fit, jwks_uri: 'http://other.test/jwks' }, keySet).verify(token))).toMatch(/^unavailable: .*https/);
    expect(await refusal(serve({ issuer: issuer.url }, keySet).verify(token))).toMatch(/^unavailable: .*not the document/);
    expect(await refusal(serve(fit, { keys: 'none' }).verify(token))).toMatch(/^unavailable: .*not the document/);
    // The control: the same server with fit documents.
    expect(await refusal(serve(fit, keySet).verify(token))).toBe('accepted');
  });

  it('must not be configured over plain http, save on loopback', () => {
    const options = { audience: AUDIENCE, organizationClaim: 'org', roleClaim: 'role', fetchTimeoutMs: 100 };
    expect(() => createOidcVerifier({ ...options, issuer: 'http://issuer.test' })).toThrow(/https/);
    expect(() => createOidcVerifier({ ...options, issuer: 'http://127.0.0.1.issuer.test' })).toThrow(/https/);
    expect(() => createOidcVerifier({ ...options, issuer: 'https://issuer.test/' })).not.toThrow();
  });
});
