import type { JWTVerifyGetKey } from 'jose';
import { createRemoteJWKSet, customFetch } from 'jose';
import { z } from 'zod';

/** The issuer can't be reached, or what it publishes can't be used. Says nothing about any token. */
export class IssuerUnavailable extends Error {
  override readonly name = 'IssuerUnavailable';
}

const discoverySchema = z.object({ issuer: z.string(), jwks_uri: z.url() });
const keySetSchema = z.object({ keys: z.array(z.looseObject({ kty: z.string() })) });

/** A key that the issuer withdrew is trusted no longer than this, and an issuer that is down is felt no sooner. */
const KEYS_MAX_AGE_MS = 10 * 60_000;

/**
 * The signing keys of an OIDC issuer, fetched when a token first needs them: discovery document (OpenID Connect Discovery 1.0, 4), then the key set that it names.
 * Both are read again when the keys are 10 minutes old or a token names an unknown key, the latter at most once every `cooldownMs`, so that neither
 * rotation nor a moved key set needs a restart, and forged key ids don't become requests to the issuer.
 *
 * After a failed fetch, none is tried for `cooldownMs`: callers get the same IssuerUnavailable at once instead of waiting for a timeout each. Tokens whose key is
 * still held are not affected. `fetchTimeoutMs` is for both documents together.
 */
export function createIssuerKeys(options: {
  readonly issuer: string;
  readonly fetchTimeoutMs: number;
  readonly cooldownMs: number;
}): JWTVerifyGetKey {
  const { issuer, fetchTimeoutMs, cooldownMs } = options;
  const discoveryUrl = new URL(`${issuer.replace(/\/$/, '')}/.well-known/openid-configuration`);
  requireSafeUrl(discoveryUrl);
  let failure: { readonly untilMs: number; readonly error: unknown } | undefined;

  async function fetchKeySet(url: string, { signal }: { readonly signal: AbortSignal }): Promise<Response> {
    if (failure !== undefined && performance.now() < failure.untilMs) {
      throw failure.error;
    }
    try {
      const discovery = await fetchJson(url, discoverySchema, signal);
      // Discovery 1.0, 4.3: without this check one issuer could answer for another.
      if (discovery.issuer !== issuer) {
        throw new IssuerUnavailable('the discovery document names another issuer than the configured one; compare them letter by letter');
      }
      const jwksUrl = new URL(discovery.jwks_uri);
      requireSafeUrl(jwksUrl);
      const keySet = await fetchJson(jwksUrl.href, keySetSchema, signal);
      failure = undefined;
      return Response.json(keySet);
    } catch (error) {
      failure = { untilMs: performance.now() + cooldownMs, error };
      throw error;
    }
  }

  return createRemoteJWKSet(discoveryUrl, {
    timeoutDuration: fetchTimeoutMs,
    cooldownDuration: cooldownMs,
    cacheMaxAge: KEYS_MAX_AGE_MS,
    [customFetch]: fetchKeySet,
  });
}

async function fetchJson<Shape>(url: string, schema: z.ZodType<Shape>, signal: AbortSignal): Promise<Shape> {
  let body: unknown;
  try {
    // No redirects: the address that is trusted is the configured one, and the one that it names.
    const response = await fetch(url, {
      signal,
      redirect: 'error',
      headers: { accept: 'application/json' },
    });
    if (response.status !== 200) {
      await response.body?.cancel();
      throw new IssuerUnavailable(`${url} answered ${response.status}`);
    }
    body = await response.json();
  } catch (cause) {
    throw cause instanceof IssuerUnavailable ? cause : new IssuerUnavailable(`${url}: ${explain(cause)}`, { cause });
  }
  const parsed = schema.safeParse(body);
  if (!parsed.success) {
    throw new IssuerUnavailable(`${url} is not the document it should be`, { cause: parsed.error });
  }
  return parsed.data;
}

/** fetch says only "fetch failed"; the system's code is one cause below. */
function explain(error: unknown): string {
  if (!(error instanceof Error)) {
    return 'unknown failure';
  }
  const code = error.cause instanceof Error && 'code' in error.cause ? ` (${String(error.cause.code)})` : '';
  return `${error.message}${code}`;
}

/** Keys that came over plain HTTP can be anybody's; on this machine there is nobody in between. */
function requireSafeUrl(url: URL): void {
  const loopback = url.hostname === 'localhost' || url.hostname === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(url.hostname);
  if (url.protocol !== 'https:' && !(url.protocol === 'http:' && loopback)) {
    throw new IssuerUnavailable(`${url.href} must be an https address (http only on the loopback interface)`);
  }
}
