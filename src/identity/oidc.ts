import type { JWTPayload } from 'jose';
import { decodeJwt, decodeProtectedHeader, errors, jwtVerify } from 'jose';

import { createIssuerKeys, IssuerUnavailable } from './oidc-keys.ts';

/** What a valid token says. A person is the pair of issuer and subject; name and email are for display and decide nothing. */
export type OidcIdentity = {
  readonly ok: true;
  readonly subject: string;
  readonly organization: string;
  /** As the token has it, to be checked against the known roles; null where the claim is missing. */
  readonly role: string | null;
  readonly name?: string;
  readonly email?: string;
  readonly expiresAt: Date;
};

/** `refused` is the token's fault (401), `unavailable` the issuer's (503). The reason is for the log and holds nothing of the token. */
export type OidcFailure = {
  readonly ok: false;
  readonly kind: 'refused' | 'unavailable';
  readonly reason: string;
};

export type OidcVerifier = {
  /** Never rejects for what a token or an issuer does. */
  verify(jwt: string): Promise<OidcIdentity | OidcFailure>;
};

export type OidcOptions = {
  /** Exactly as the provider writes it in `iss`, a trailing slash included. */
  readonly issuer: string;
  readonly audience: string;
  /** Names of top-level claims, taken literally: a dot or a slash is part of the name. */
  readonly organizationClaim: string;
  readonly roleClaim: string;
  readonly fetchTimeoutMs: number;
  /** For how long a failed fetch, or one for an unknown key id, is not repeated. 30 seconds where it is not given. */
  readonly cooldownMs?: number;
  /** For the tokens' validity, not for caches. */
  readonly clock?: () => Date;
};

/** Asymmetric only: with HS256 allowed, the public key would be a shared secret that everybody knows. */
const ALGORITHMS = ['RS256', 'PS256', 'ES256', 'EdDSA'];

/**
 * RFC 9068 access tokens say `at+jwt`; many providers say `JWT` or nothing. Anything else (`logout+jwt`, `dpop+jwt`, …) was signed for another use. An ID token passes here and
 * fails on its audience, which is the client.
 */
const TOKEN_TYPES = new Set([undefined, 'jwt', 'at+jwt']);

const CLOCK_TOLERANCE_SECONDS = 30;
const MAX_TOKEN_LENGTH = 16 * 1024;
const MAX_CLAIM_LENGTH = 255;
const MAX_DATE_MS = 8_640_000_000_000_000;

/**
 * Verifies JWT access tokens of one OIDC issuer: signature by the issuer's published keys, algorithm, type, issuer, audience, time, and the claims that keyledger needs.
 * Nothing is fetched until a first token that claims to be this issuer's; a token that can't be valid never causes a fetch.
 *
 * Throws IssuerUnavailable at once where the issuer is no https address (http on loopback is accepted).
 */
export function createOidcVerifier(options: OidcOptions): OidcVerifier {
  const { issuer, audience, fetchTimeoutMs, cooldownMs = 30_000, clock = () => new Date() } = options;
  const keys = createIssuerKeys({ issuer, fetchTimeoutMs, cooldownMs });

  return {
    verify: async (jwt) => {
      const impossible = refuseUnseen(jwt, issuer);
      if (impossible !== null) {
        return refused(impossible);
      }
      try {
        const { payload } = await jwtVerify(jwt, keys, {
          issuer,
          audience,
          algorithms: ALGORITHMS,
          requiredClaims: ['exp', 'sub'],
          clockTolerance: CLOCK_TOLERANCE_SECONDS,
          currentDate: clock(),
        });
        return readIdentity(payload, options);
      } catch (error) {
        return failure(error);
      }
    },
  };
}

/** Why the token can't be valid, from its unverified text; null where only its signature can tell. It spares the issuer, and tells 401 from 503 when it is down. */
function refuseUnseen(jwt: string, issuer: string): string | null {
  if (jwt.length > MAX_TOKEN_LENGTH) {
    return 'the token is too long';
  }
  try {
    const { alg, typ } = decodeProtectedHeader(jwt);
    if (alg === undefined || !ALGORITHMS.includes(alg)) {
      return `the algorithm is not one of ${ALGORITHMS.join(', ')}`;
    }
    // RFC 7515, 4.1.9: compared without case, and `application/` may be left out.
    if (!TOKEN_TYPES.has(typ?.toLowerCase().replace(/^application\//, ''))) {
      return 'the type is not that of an access token';
    }
    return decodeJwt(jwt).iss === issuer ? null : 'another issuer';
  } catch {
    // Whatever the parser trips over was sent by the caller; its message may quote the token.
    return 'not a JWT';
  }
}

function readIdentity(payload: JWTPayload, options: OidcOptions): OidcIdentity | OidcFailure {
  const { sub: subject, exp: expiresAtSeconds } = payload;
  const { [options.organizationClaim]: organization, [options.roleClaim]: role = null, name, email } = payload;
  if (payload['cnf'] !== undefined) {
    // RFC 9449 and RFC 8705: such a token is worth nothing without its key, and a bearer credential proves none.
    return refused('the token is bound to a key of its client (cnf), which is not supported');
  }
  if (!isClaimText(subject)) {
    return refused('sub is not a text of 1 to 255 characters');
  }
  if (!isClaimText(organization)) {
    return refused(`the organization claim ${JSON.stringify(options.organizationClaim)} is missing or not a text of 1 to 255 characters`);
  }
  if (role !== null && !isClaimText(role)) {
    return refused(`the role claim ${JSON.stringify(options.roleClaim)} is not a text of 1 to 255 characters`);
  }
  if (expiresAtSeconds === undefined || expiresAtSeconds * 1000 > MAX_DATE_MS) {
    return refused('exp is not a date');
  }
  return {
    ok: true,
    subject,
    organization,
    role,
    ...(isClaimText(name) ? { name } : {}),
    ...(isClaimText(email) && payload['email_verified'] !== false ? { email } : {}),
    expiresAt: new Date(expiresAtSeconds * 1000),
  };
}

function isClaimText(value: unknown): value is string {
  return typeof value === 'string' && value.length > 0 && value.length <= MAX_CLAIM_LENGTH;
}

function refused(reason: string): OidcFailure {
  return { ok: false, kind: 'refused', reason };
}

function failure(error: unknown): OidcFailure {
  if (error instanceof IssuerUnavailable) {
    return { ok: false, kind: 'unavailable', reason: error.message };
  }
  if (error instanceof errors.JWTClaimValidationFailed || error instanceof errors.JWTExpired) {
    return refused(`${error.code}: ${error.claim}`);
  }
  if (error instanceof errors.JOSEError) {
    // The code alone: some of jose's messages quote the header.
    return refused(error.code);
  }
  // Not a JOSE error: the published key itself is unfit, an RSA key below 2048 bits for instance.
  return refused(`the issuer's key can not be used: ${error instanceof Error ? error.message : 'unknown failure'}`);
}
