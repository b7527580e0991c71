import { randomUUID } from 'node:crypto';

import { AdmissionUnavailableError } from '../admission/admission.ts';
import { ForbiddenError } from '../commands/authorization.ts';
import { REQUEST_REFUSALS, type RequestRefusalCode } from '../domain/refusals.ts';
import { isDatabaseUnavailable } from '../postgres/database-unavailable.ts';
import type { Exchange, FieldList, RequestHead } from './exchange.ts';

const RETRY_AFTER_SECONDS = 1;

export type AnswerHeaders = Readonly<Record<string, string | number>>;

/**
 * Sends an answer whole and counts it. Every answer forbids caches to keep it, since almost all carry a decision or a state of the moment, and browsers to guess its type.
 * Does nothing where the client is gone.
 */
export function answer(
  { response, route, startedMs, scope }: Exchange<RequestHead>,
  status: number,
  body: string,
  headers: AnswerHeaders | Readonly<FieldList> = [],
): void {
  if (response.headersSent || response.destroyed) return;
  response.writeHead(status, headerFields(body, headers));
  response.end(body);
  scope.metrics.answered(route, status, performance.now() - startedMs);
}

const OWN_FIELDS: Readonly<FieldList> = [
  'content-type',
  'application/json; charset=utf-8',
  'cache-control',
  'no-store',
  'x-content-type-options',
  'nosniff',
  'content-length',
];

/** Names and values in turn, as Node writes them without making an object of them first. A list has no names but further ones. */
function headerFields(body: string, headers: AnswerHeaders | Readonly<FieldList>): FieldList {
  const fields: FieldList = [...OWN_FIELDS, Buffer.byteLength(body)];
  if (isList(headers)) {
    for (const part of headers) fields.push(part);
    return fields;
  }
  const own = fields.length;
  for (const name in headers) {
    let place = 0;
    while (place < own && fields[place] !== name) place += 2;
    const value = headers[name] ?? '';
    if (place < own) fields[place + 1] = value;
    else fields.push(name, value);
  }
  return fields;
}

function isList(headers: AnswerHeaders | Readonly<FieldList>): headers is Readonly<FieldList> {
  return Array.isArray(headers);
}

/** What a refused request is told beside its code: `index` of the item at fault, `field` by its path. */
export type RefusalPlace = { readonly index?: number; readonly field?: string };

/** Refuses with a code of the catalogue; `detail` says what was wrong and what would be right. */
export function refuse(
  exchange: Exchange<RequestHead>,
  code: RequestRefusalCode,
  detail?: string,
  headers?: AnswerHeaders,
  place?: RefusalPlace,
): void {
  const { httpStatus, message } = REQUEST_REFUSALS[code];
  answer(exchange, httpStatus, errorBody(code, detail ?? `${message}.`, place), { ...FIXED_HEADERS[code], ...headers });
}

export function errorBody(code: RequestRefusalCode, message: string, place: RefusalPlace = {}): string {
  return JSON.stringify({ error: { code, message, ...place } });
}

const FIXED_HEADERS: { readonly [Code in RequestRefusalCode]?: AnswerHeaders } = {
  UNAUTHENTICATED: { 'www-authenticate': 'Bearer' },
  SERVICE_UNAVAILABLE: { 'retry-after': RETRY_AFTER_SECONDS },
};

/**
 * Answers what a route threw: a failure that was to be expected by its code, any other by 500 with an id under which the log has it. Never a stack or a statement. `tell`: for routes whose refusals
 * have a form of their own.
 */
export function refuseError(exchange: Exchange<RequestHead>, error: unknown, tell: typeof refuse = refuse): void {
  const { logger, reportOutage } = exchange.scope;
  if (error instanceof ForbiddenError) return tell(exchange, 'FORBIDDEN', error.message);
  if (error instanceof AdmissionUnavailableError) {
    reportOutage(error, exchange.route);
    return tell(exchange, 'SERVICE_UNAVAILABLE', error.message, { 'retry-after': error.retryAfterSeconds });
  }
  if (isDatabaseUnavailable(error)) {
    reportOutage(error, exchange.route);
    return tell(exchange, 'SERVICE_UNAVAILABLE', undefined, FIXED_HEADERS.SERVICE_UNAVAILABLE);
  }
  const errorId = randomUUID();
  logger.error({ err: error, errorId, route: exchange.route }, 'a request failed');
  tell(exchange, 'INTERNAL_SERVER_ERROR', `${REQUEST_REFUSALS.INTERNAL_SERVER_ERROR.message}. The server's log has it under ${errorId}.`);
}
