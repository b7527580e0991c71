import type { IncomingMessage } from 'node:http';

import type { Admission, CallerRefused, VerifyAnswer, VerifyCaller } from '../admission/admission.ts';
import { allows } from '../domain/actor.ts';
import { REQUEST_REFUSALS, type RequestRefusalCode } from '../domain/refusals.ts';
import { accessTokenHash, looksLikeJwt } from '../identity/access-token.ts';
import type { Authenticate } from '../identity/authenticate.ts';
import { answer, refuseError, type AnswerHeaders } from './answer.ts';
import { createForwardedAddress } from './client-address.ts';
import type { Exchange, Route } from './exchange.ts';
import { FORWARD_AUTH_PATH, readForwardAuth, type Dialect } from './forward-auth-question.ts';
import { headerText, keyHeaders } from './key-headers.ts';
import type { DataPlaneMetrics } from './metrics.ts';
import { rateLimitHeaders } from './rate-limit-fields.ts';

/** The status of a gateway that may not ask or asks wrongly: neither 401 nor 403, which would look like a bad key, and of the class that operators watch. */
const GATEWAY_FAULT_STATUS = 502;
const LOG_PAUSE_MS = 1000;
/** A body is none of our business; so much of one is read and thrown away. */
const MAX_BODY_BYTES = 8 * 1024 * 1024;

type Options = {
  readonly admission: Admission;
  readonly authenticate: Authenticate;
  readonly metrics: DataPlaneMetrics;
  /** CIDRs whose X-Forwarded-For is believed. */
  readonly trustedProxies: readonly string[];
};

/**
 * `ANY /v1/forward-auth` and below: one request of an end client, as its gateway forwards it, answered with the status that the end client should see. See docs/gateways.md for what each gateway makes of it.
 */
export function forwardAuthRoutes(options: Options): readonly Route[] {
  const handle = createForwardAuth(options);
  return [FORWARD_AUTH_PATH, `${FORWARD_AUTH_PATH}/*`].map((path) => ({ method: 'ANY', path, name: 'forward-auth', handle }));
}

function createForwardAuth({ admission, authenticate, metrics, trustedProxies }: Options): (exchange: Exchange) => void {
  const forwardedAddress = createForwardedAddress(trustedProxies);
  let silentUntilMs = 0;
  let faults = 0;

  /** Logged, since its operator has to act, but not for each request. */
  function tellFault(exchange: Exchange, code: RequestRefusalCode, detail: string): void {
    faults++;
    const nowMs = performance.now();
    if (nowMs >= silentUntilMs) {
      silentUntilMs = nowMs + LOG_PAUSE_MS;
      exchange.scope.logger.warn({ route: exchange.route, code, requests: faults }, `a gateway was refused: ${detail}`);
      faults = 0;
    }
    tellError(exchange, GATEWAY_FAULT_STATUS, code, `Gateway refused: ${detail}`);
  }

  async function decide(exchange: Exchange): Promise<void> {
    const asked = readForwardAuth(exchange.request, forwardedAddress(exchange.request));
    if (asked.kind === 'misconfigured') return tellFault(exchange, 'BAD_USER_INPUT', `${asked.message}.`);
    if (asked.token === '') return tellFault(exchange, 'UNAUTHENTICATED', 'it sends no X-Gateway-Token.');
    const caller = await callerOf(exchange, asked.token);
    if (caller !== null) tell(exchange, await admission.verify(caller, asked.request), asked.dialect);
  }

  /** An access token is checked by the statement that decides; a JWT before. Null where the exchange was answered. */
  async function callerOf(exchange: Exchange, token: string): Promise<VerifyCaller | null> {
    if (!looksLikeJwt(token)) return { kind: 'token', tokenHash: accessTokenHash(token) };
    const found = await authenticate(`Bearer ${token}`);
    switch (found.kind) {
      case 'actor':
        if (allows(found.actor, 'keys:verify')) return { kind: 'organization', organizationId: found.actor.organizationId };
        tellFault(exchange, 'FORBIDDEN', WITHOUT_PERMISSION);
        return null;
      case 'anonymous':
      case 'refused':
        tellFault(exchange, 'UNAUTHENTICATED', UNKNOWN_TOKEN);
        return null;
      case 'unavailable':
        tellError(exchange, 503, 'SERVICE_UNAVAILABLE', found.message, { 'retry-after': 1 });
        return null;
      default:
        return found satisfies never;
    }
  }

  function tell(exchange: Exchange, verdict: VerifyAnswer | CallerRefused, dialect: Dialect): void {
    switch (verdict.kind) {
      case 'answer':
        metrics.verified(verdict.code);
        return tellVerdict(exchange, verdict, dialect);
      case 'unauthenticated':
        return tellFault(exchange, 'UNAUTHENTICATED', UNKNOWN_TOKEN);
      case 'forbidden':
        return tellFault(exchange, 'FORBIDDEN', WITHOUT_PERMISSION);
      case 'request-id-taken':
        throw new Error('A request without an id was told that its id is taken.');
      default:
        return verdict satisfies never;
    }
  }

  return (exchange) => {
    discardBody(exchange.request);
    decide(exchange).catch((error: unknown) => {
      refuseError(exchange, error, (_exchange, code, detail, headers) => {
        const { httpStatus, message } = REQUEST_REFUSALS[code];
        tellError(exchange, httpStatus, code, detail ?? `${message}.`, headers);
      });
    });
  };
}

const UNKNOWN_TOKEN = 'its X-Gateway-Token is unknown, expired or revoked.';
const WITHOUT_PERMISSION = "its X-Gateway-Token does not carry the permission 'keys:verify'.";

function tellVerdict(exchange: Exchange, verdict: VerifyAnswer, dialect: Dialect): void {
  const limits = rateLimitHeaders(verdict, Math.floor(Date.now() / 1000));
  const { code, message, httpStatus, key, requestId } = verdict;
  if (key !== null) return answer(exchange, 200, '', { ...keyHeaders(key, requestId), ...limits });
  const status = dialect === 'nginx' && httpStatus !== 401 ? 403 : httpStatus;
  tellError(exchange, status, code, message ?? '', { ...limits, ...challenge(exchange.request, verdict), 'x-auth-status': httpStatus });
}

/** Any 401 has to say how to authenticate (RFC 9110, 15.5.2); in the words of RFC 6750, 3. */
function challenge(request: IncomingMessage, { httpStatus, code, message }: VerifyAnswer): AnswerHeaders {
  if (httpStatus !== 401) return {};
  const { authorization, 'x-api-key': key } = request.headers;
  const isAboutKey = code === 'INVALID_KEY' || code === 'INACTIVE' || code === 'EXPIRED';
  if (!isAboutKey || (authorization === undefined && key === undefined)) return { 'www-authenticate': 'Bearer' };
  return { 'www-authenticate': `Bearer error="invalid_token", error_description="${message}"` };
}

/** X-Auth-Code and X-Auth-Message are for gateways that make the end client's answer themselves. */
function tellError(exchange: Exchange, status: number, code: string, message: string, headers: AnswerHeaders = {}): void {
  answer(exchange, status, JSON.stringify({ error: message }), {
    'x-auth-code': code,
    'x-auth-status': status,
    'x-auth-message': headerText(message),
    ...headers,
  });
}

function discardBody(request: IncomingMessage): void {
  if (request.headers['content-length'] === undefined && request.headers['transfer-encoding'] === undefined) return;
  let size = 0;
  // Comes when the client goes away in the middle; without a listener it would end the process.
  request.on('error', () => undefined);
  request.on('data', (chunk: Buffer) => {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) request.destroy();
  });
}
