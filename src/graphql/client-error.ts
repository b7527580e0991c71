import { randomUUID } from 'node:crypto';
import { PothosError } from '@pothos/core';
import { GraphQLError, type GraphQLErrorOptions } from 'graphql';
import type { Logger } from 'pino';

import { AdmissionUnavailableError } from '../admission/admission.ts';
import { ForbiddenError } from '../commands/authorization.ts';
import { ContentionError, KeyOperationLimitError } from '../ledger/run-command.ts';
import { withoutCredentials } from '../lib/without-credentials.ts';
import { isDatabaseUnavailable } from '../postgres/database-unavailable.ts';
import { UsagePeriodError } from '../projections/usage-period.ts';

/** `extensions.code` of a top-level error. */
export const ERROR_CODES = [
  'UNAUTHENTICATED',
  'FORBIDDEN',
  'NOT_FOUND',
  'RATE_LIMITED',
  'QUERY_TOO_COMPLEX',
  'BAD_USER_INPUT',
  'SUBSCRIPTION_LAGGED',
  'SERVICE_UNAVAILABLE',
  'INTERNAL_SERVER_ERROR',
] as const;
export type TopLevelCode = (typeof ERROR_CODES)[number];

/** An error that is meant for the client as it stands. */
export function topLevelError(code: TopLevelCode, message: string, extensions: Readonly<Record<string, unknown>> = {}): GraphQLError {
  return new GraphQLError(message, { extensions: { code, ...extensions } });
}

export function badUserInput(message: string): GraphQLError {
  return topLevelError('BAD_USER_INPUT', withoutCredentials(message));
}

/** Nobody is logged in, or with credentials that are no good: then `status` 401 refuses the whole request. */
export function unauthenticated(
  message = "This needs credentials: send 'Authorization: Bearer <access token>'.",
  wholeRequest = false,
): GraphQLError {
  return topLevelError(
    'UNAUTHENTICATED',
    message,
    wholeRequest ? { http: { status: 401, headers: { 'WWW-Authenticate': 'Bearer' } } } : {},
  );
}

export function serviceUnavailable(message: string, retryAfterSeconds: number): GraphQLError {
  const http = { status: 503, headers: { 'Retry-After': String(retryAfterSeconds) } };
  return topLevelError('SERVICE_UNAVAILABLE', message, { retryAfter: retryAfterSeconds, http });
}

/**
 * What the client sees of an error: a code, a sentence, where it happened; never a stack, a statement or a secret. What nobody expected is logged with an
 * id, and the client is shown that id alone.
 */
export function toClientError(error: unknown, logger: Logger): GraphQLError {
  const cause = rootCause(error);
  if (cause instanceof GraphQLError && !(cause instanceof PothosError)) return fromGraphql(cause, error);
  if (cause instanceof PothosError && cause.name === 'PothosValidationError') return located(badUserInput(cause.message), error);
  const known = fromKnown(cause);
  if (known !== null) return located(known, error);
  const errorId = randomUUID();
  logger.error(
    { err: cause, errorId, path: error instanceof GraphQLError ? error.path?.join('.') : undefined },
    'a GraphQL operation failed',
  );
  const message = `Something went wrong here, not with your request. The server's log has it under ${errorId}.`;
  return located(topLevelError('INTERNAL_SERVER_ERROR', message, { errorId }), error);
}

function fromKnown(cause: unknown): GraphQLError | null {
  if (cause instanceof ForbiddenError) return topLevelError('FORBIDDEN', cause.message, { permission: cause.permission });
  if (cause instanceof KeyOperationLimitError) return topLevelError('RATE_LIMITED', cause.message, { retryAfter: cause.retryAfterSeconds });
  if (cause instanceof UsagePeriodError) return badUserInput(`${cause.message}.`);
  if (cause instanceof ContentionError) return serviceUnavailable(cause.message, 1);
  if (cause instanceof AdmissionUnavailableError)
    return serviceUnavailable('The database can not be reached; try again.', cause.retryAfterSeconds);
  if (isDatabaseUnavailable(cause)) return serviceUnavailable('The database can not be reached; try again.', 1);
  return null;
}

/**
 * Errors of graphql-js itself (syntax, validation, variables) carry no code: the fault is the client's. So it is where Yoga can't read the body, whose error brings
 * along the parser's own message with a piece of that body.
 */
export function fromGraphql(cause: GraphQLError, error: unknown = cause): GraphQLError {
  const { originalError: _, ...extensions } = cause.extensions;
  const requestError = error instanceof GraphQLError ? error.path === undefined : cause.path === undefined;
  // Which argument or variable a value was given for is the document's own text, and may hold anything.
  const badValue = requestError && extensions['code'] === 'BAD_USER_INPUT';
  if (typeof extensions['code'] === 'string' && extensions['code'] !== 'BAD_REQUEST' && !badValue) return located(cause, error);
  // `spec`: 400 only for application/graphql-response+json. A body that can't be read is 400 for every client.
  const unreadable = extensions['code'] === 'BAD_REQUEST';
  const http = unreadable
    ? { http: { status: 400, ...withoutSpec(extensions['http']) } }
    : requestError && extensions['http'] === undefined
      ? { http: { status: 400, spec: true } }
      : {};
  return located(withExtensions(cause, { ...extensions, ...http, code: 'BAD_USER_INPUT' }), error);
}

function withoutSpec(http: unknown): object {
  if (typeof http !== 'object' || http === null) return {};
  const { spec: _, ...rest } = http as { readonly spec?: unknown };
  return rest;
}

function withExtensions(error: GraphQLError, extensions: Readonly<Record<string, unknown>>): GraphQLError {
  // graphql-js quotes names and values of the document in its messages.
  return new GraphQLError(withoutCredentials(error.message), { ...placeOf(error), extensions: { ...extensions } });
}

/** Keeps message and extensions of one error and takes the place in the document from the other. */
function located(error: GraphQLError, where: unknown): GraphQLError {
  if (!(where instanceof GraphQLError) || where === error) return error;
  return new GraphQLError(error.message, { ...placeOf(where), extensions: error.extensions });
}

function placeOf({ nodes, source, positions, path }: GraphQLError): GraphQLErrorOptions {
  return {
    ...(nodes === undefined ? {} : { nodes }),
    ...(source === undefined ? {} : { source }),
    ...(positions === undefined ? {} : { positions }),
    ...(path === undefined ? {} : { path }),
  };
}

/** graphql-js tells the variable or the argument before what a scalar has said of it: that sentence is the better one. */
function saysWhere({ message, path }: GraphQLError, inner: unknown): boolean {
  return path === undefined && inner instanceof GraphQLError && message !== inner.message && message.endsWith(inner.message);
}

function rootCause(error: unknown): unknown {
  let cause = error;
  for (let depth = 0; depth < 10 && cause instanceof GraphQLError; depth++) {
    const inner: unknown = cause.cause ?? cause.originalError;
    if (inner === undefined || inner === null || saysWhere(cause, inner)) return cause;
    cause = inner;
  }
  return cause;
}
