import { z } from 'zod';

import type { Admission, CallerRefused, VerifyAnswer, VerifyCaller, VerifyRequest } from '../admission/admission.ts';
import { verifyInputSchema } from '../admission/verify-input.ts';
import { ForbiddenError } from '../commands/authorization.ts';
import { describeFaults } from '../commands/input.ts';
import { allows } from '../domain/actor.ts';
import { REQUEST_REFUSALS, type RequestRefusalCode } from '../domain/refusals.ts';
import type { Authenticate } from '../identity/authenticate.ts';
import { answer, refuse, refuseError } from './answer.ts';
import { authenticated } from './authenticated.ts';
import type { Exchange, RequestHead, Route } from './exchange.ts';
import { bodyType, JSON_TYPE, REFUSED } from './media-type.ts';
import type { DataPlaneMetrics } from './metrics.ts';
import { readBody } from './read-body.ts';
import { verifyAnswerBody } from './verify.ts';

/** Questions in one request. */
export const MAX_VERIFY_BATCH = 1000;
export const MAX_VERIFY_BATCH_BYTES = 1024 * 1024;

export const verifyBatchSchema = z.strictObject({
  requests: z
    .array(verifyInputSchema, "give 'requests', a list of questions")
    .min(1, 'give one question at least')
    .max(MAX_VERIFY_BATCH, `give ${MAX_VERIFY_BATCH} questions at most`),
});

type Options = { readonly admission: Admission; readonly authenticate: Authenticate; readonly metrics: DataPlaneMetrics };

/**
 * `POST /v1/verify/batch`: many questions at once, `{ "requests": [ … ] }`, answered as `{ "answers": [ … ] }` in their order, each as `/v1/verify` answers it
 * and each decided by itself. One malformed question refuses all, before any is decided.
 */
export function verifyBatchRoute({ admission, authenticate, metrics }: Options): Route {
  /** Null where the exchange was answered. */
  async function callerOf(exchange: Exchange<RequestHead>): Promise<VerifyCaller | null> {
    if (bodyType(exchange, [JSON_TYPE]) === REFUSED) return null;
    const actor = await authenticated(exchange, authenticate);
    if (actor === null) return null;
    if (!allows(actor, 'keys:verify')) throw new ForbiddenError('keys:verify');
    return { kind: 'organization', organizationId: actor.organizationId };
  }

  async function receive(exchange: Exchange<RequestHead>, caller: VerifyCaller, body: Buffer): Promise<void> {
    const questions = parseQuestions(exchange, body);
    if (questions === null) return;
    const verdicts = await Promise.all(questions.map((question) => admission.verify(caller, question)));
    answer(exchange, 200, JSON.stringify({ answers: verdicts.map(tell) }));
  }

  function tell(verdict: VerifyAnswer | CallerRefused) {
    switch (verdict.kind) {
      case 'answer':
        metrics.verified(verdict.code);
        return verifyAnswerBody(verdict);
      case 'request-id-taken':
        return undecided('REQUEST_ID_TAKEN');
      // The caller was known before the questions were read.
      case 'unauthenticated':
      case 'forbidden':
        return undecided('FORBIDDEN');
    }
    return verdict satisfies never;
  }

  return {
    method: 'POST',
    path: '/v1/verify/batch',
    name: 'verify-batch',
    async handle(exchange) {
      const caller = await callerOf(exchange);
      if (caller === null) return;
      readBody(exchange, MAX_VERIFY_BATCH_BYTES, (body) => {
        receive(exchange, caller, body).catch((error: unknown) => {
          refuseError(exchange, error);
        });
      });
    },
    plain: {
      maxBodyBytes: MAX_VERIFY_BATCH_BYTES,
      async handle(exchange, body) {
        const caller = await callerOf(exchange);
        if (caller !== null) await receive(exchange, caller, body);
      },
    },
  };
}

/** In place of the answer to a question that could not be decided. */
function undecided(code: RequestRefusalCode) {
  return { error: { code, message: `${REQUEST_REFUSALS[code].message}.` } };
}

/** Null where the body is malformed; then it was answered. */
function parseQuestions(exchange: Exchange<RequestHead>, body: Buffer): readonly VerifyRequest[] | null {
  let given: unknown;
  try {
    given = JSON.parse(body.toString());
  } catch {
    // The parser's own message quotes the body, which may hold keys.
    refuse(exchange, 'BAD_USER_INPUT', 'The body is no JSON; send an object such as {"requests":[{"key":"sk_live_…"}]}.');
    return null;
  }
  const parsed = verifyBatchSchema.safeParse(given);
  if (parsed.success) return parsed.data.requests;
  const { message, field } = describeFaults(parsed.error);
  refuse(exchange, 'BAD_USER_INPUT', `${message}. Nothing was decided.`, undefined, field === undefined ? {} : { field });
  return null;
}
