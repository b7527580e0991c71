import type { Admission, CallerRefused, VerifiedKey, VerifyAnswer, VerifyCaller, VerifyRequest } from '../admission/admission.ts';
import { readPlainQuestion } from '../admission/plain-question.ts';
import { verifyInputSchema } from '../admission/verify-input.ts';
import { allows } from '../domain/actor.ts';
import { ForbiddenError } from '../commands/authorization.ts';
import { describeFaults } from '../commands/input.ts';
import type { Authenticate } from '../identity/authenticate.ts';
import { answer, refuse, refuseError } from './answer.ts';
import { authenticated } from './authenticated.ts';
import { bearerCredential, type BearerCredential } from './bearer-credential.ts';
import type { Exchange, RequestHead, Route } from './exchange.ts';
import { bodyType, JSON_TYPE, REFUSED } from './media-type.ts';
import { readBody } from './read-body.ts';
import type { DataPlaneMetrics } from './metrics.ts';
import { rateLimitFields } from './rate-limit-fields.ts';

export const MAX_VERIFY_BODY_BYTES = 64 * 1024;
const JSON_ONLY = [JSON_TYPE];

/**
 * `POST /v1/verify`. An access token is checked by the statement that decides, so a verification is one round trip to the database; a JWT is checked before.
 */
export function verifyRoute({
  admission,
  authenticate,
  metrics,
}: {
  readonly admission: Admission;
  readonly authenticate: Authenticate;
  readonly metrics: DataPlaneMetrics;
}): Route {
  function receive(exchange: Exchange<RequestHead>, credential: BearerCredential, body: Buffer): void {
    const request = parseQuestion(exchange, body);
    if (request === null) return;
    const decided = credential.kind === 'jwt' ? verifyForActor(exchange, request) : admission.verify(credential, request);
    decided.then(
      (verdict) => {
        if (verdict !== null) tell(exchange, verdict);
      },
      (error: unknown) => {
        refuseError(exchange, error);
      },
    );
  }

  async function verifyForActor(exchange: Exchange<RequestHead>, request: VerifyRequest): Promise<VerifyAnswer | CallerRefused | null> {
    const actor = await authenticated(exchange, authenticate);
    if (actor === null) return null;
    if (!allows(actor, 'keys:verify')) throw new ForbiddenError('keys:verify');
    const caller: VerifyCaller = { kind: 'organization', organizationId: actor.organizationId };
    return admission.verify(caller, request);
  }

  function tell(exchange: Exchange<RequestHead>, verdict: VerifyAnswer | CallerRefused): void {
    switch (verdict.kind) {
      case 'answer':
        metrics.verified(verdict.code);
        return answer(exchange, 200, verifyAnswerText(verdict), rateLimitFields(verdict, Math.floor(Date.now() / 1000)));
      case 'unauthenticated':
        return refuse(exchange, 'UNAUTHENTICATED', 'The access token is unknown, expired or revoked.');
      case 'forbidden':
        return refuse(exchange, 'FORBIDDEN', new ForbiddenError('keys:verify').message);
      case 'request-id-taken':
        return refuse(exchange, 'REQUEST_ID_TAKEN');
      default:
        return verdict satisfies never;
    }
  }

  return {
    method: 'POST',
    path: '/v1/verify',
    name: 'verify',
    handle(exchange) {
      const credential = credentialOf(exchange);
      if (credential === null) return;
      readBody(exchange, MAX_VERIFY_BODY_BYTES, (body) => {
        try {
          receive(exchange, credential, body);
        } catch (error) {
          refuseError(exchange, error);
        }
      });
    },
    plain: {
      maxBodyBytes: MAX_VERIFY_BODY_BYTES,
      handle(exchange, body) {
        const credential = credentialOf(exchange);
        if (credential !== null) receive(exchange, credential, body);
      },
    },
  };
}

/** Null where none was given or the body is of another type than JSON; then it was answered. */
function credentialOf(exchange: Exchange<RequestHead>): BearerCredential | null {
  const credential = bearerCredential(exchange.request);
  if (credential === undefined) {
    refuse(exchange, 'UNAUTHENTICATED');
    return null;
  }
  return bodyType(exchange, JSON_ONLY) === REFUSED ? null : credential;
}

/** Null where the body is malformed; then it was answered. */
function parseQuestion(exchange: Exchange<RequestHead>, body: Buffer): VerifyRequest | null {
  let given: unknown;
  try {
    given = JSON.parse(body.toString());
  } catch {
    // The parser's own message quotes the body, which may hold a key.
    refuse(exchange, 'BAD_USER_INPUT', `The body is no JSON; send an object such as {"key":"sk_live_…"}.`);
    return null;
  }
  const plain = readPlainQuestion(given);
  if (plain !== null) return plain;
  const parsed = verifyInputSchema.safeParse(given);
  if (parsed.success) return parsed.data;
  const { message, field } = describeFaults(parsed.error);
  refuse(exchange, 'BAD_USER_INPUT', `${message}.`, undefined, field === undefined ? {} : { field });
  return null;
}

/** The body of an answer as API consumers see it: positions as text, moments as ISO 8601, and what refused only where something did. */
export function verifyAnswerBody(verdict: VerifyAnswer) {
  const { code, message, httpStatus, requestId, position, key, rateLimit, quotas, refusedBy } = verdict;
  const body = {
    valid: code === 'VALID',
    code,
    message,
    requestId,
    position: position === null ? null : position.toString(),
    key: key === null ? null : { ...key, expiresAt: key.expiresAt === null ? null : key.expiresAt.toISOString() },
    rateLimit: rateLimit === null ? null : { limit: rateLimit.limit, remaining: rateLimit.remaining, reset: rateLimit.resetEpochSeconds },
    quotas,
  };
  if (refusedBy === null) return body;
  const rule = 'quota' in refusedBy ? { quota: refusedBy.quota } : { limit: refusedBy.limit };
  return { ...body, ...rule, httpStatus, retryAfter: refusedBy.retryAfterSeconds };
}

/** The body as it is sent. That of an answer that lets a request pass is put together from what only it has and from the key, whose text is kept with it. */
export function verifyAnswerText(verdict: VerifyAnswer): string {
  const { key, requestId, rateLimit, position } = verdict;
  if (key === null || position === null) return JSON.stringify(verifyAnswerBody(verdict));
  let text = `{"valid":true,"code":"VALID","message":null,"requestId":${quoted(requestId)},"position":"${position}",${keyPart(key)}`;
  text +=
    rateLimit === null
      ? 'null,"quotas":['
      : `{"limit":${rateLimit.limit},"remaining":${rateLimit.remaining},"reset":${rateLimit.resetEpochSeconds}},"quotas":[`;
  let separator = '';
  for (const { window, limit, remaining } of verdict.quotas) {
    text += `${separator}{"window":"${window}","limit":${limit},"remaining":${remaining}}`;
    separator = ',';
  }
  return `${text}]}`;
}

const PLAIN_ID = /^[\w.:-]*$/;

function quoted(requestId: string): string {
  return PLAIN_ID.test(requestId) ? `"${requestId}"` : JSON.stringify(requestId);
}

const keyParts = new WeakMap<VerifiedKey, string>();

function keyPart(key: VerifiedKey): string {
  let part = keyParts.get(key);
  if (part === undefined) keyParts.set(key, (part = `"key":${JSON.stringify(key)},"rateLimit":`));
  return part;
}
