import { refuse } from './answer.ts';
import type { Exchange, RequestHead } from './exchange.ts';

export const JSON_TYPE = 'application/json';
export const NDJSON_TYPES = ['application/x-ndjson', 'application/ndjson', 'application/jsonl', 'application/x-jsonlines'] as const;

/**
 * The media type of the body in lower case and without parameters, undefined where none is given; `refused` where it is not among `allowed`, is not UTF-8 or is compressed,
 * and then the exchange was answered (415).
 */
export function bodyType(exchange: Exchange<RequestHead>, allowed: readonly string[]): string | undefined | typeof REFUSED {
  const { 'content-type': given, 'content-encoding': encoding } = exchange.request.headers;
  if (encoding !== undefined && encoding.toLowerCase() !== 'identity')
    return refuseType(exchange, 'Send the body uncompressed, without Content-Encoding.');
  if (given === undefined || given === JSON_TYPE) return given;
  const [type = '', ...parameters] = given.split(';').map((part) => part.trim().toLowerCase());
  const charset = parameters.find((parameter) => parameter.startsWith('charset='))?.replace(/^charset="?([^"]*)"?$/, '$1');
  if (!allowed.includes(type))
    return refuseType(
      exchange,
      `Send the body as ${allowed[0]}, and say so in Content-Type${allowed.length > 1 ? ` (or ${allowed.slice(1).join(', ')})` : ''}.`,
    );
  if (charset !== undefined && charset !== 'utf-8' && charset !== 'utf8') return refuseType(exchange, 'Send the body in UTF-8.');
  return type;
}

export const REFUSED = Symbol('refused');

function refuseType(exchange: Exchange<RequestHead>, detail: string): typeof REFUSED {
  refuse(exchange, 'UNSUPPORTED_MEDIA_TYPE', detail);
  return REFUSED;
}
