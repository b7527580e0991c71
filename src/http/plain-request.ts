import type { RequestHead } from './exchange.ts';

/** The head of a request, and what has come of its body. */
export type PlainRequest<Target> = {
  /** What stands for its request line. */
  readonly target: Target;
  readonly headers: RequestHead['headers'];
  readonly body: Buffer;
  /** Bytes of the body that have not come. */
  readonly missing: number;
};

/** Far above what gateways send, and below what node:http takes. */
const MAX_HEAD_BYTES = 8 * 1024;
const MAX_FIELDS = 100;
/** So much is kept of who may be nobody: a credential is looked at when the body has come. */
const MAX_BODY_BYTES = 64 * 1024;
/** Field lines of RFC 9112, 5, with nothing in them that two readers could take differently: names are tokens, values visible ASCII, and lines end with CRLF. */
const FIELD_LINES = /(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e]*\r\n)+\r\n/y;
const LENGTH = /^\d{1,9}$/;

/**
 * Reads what has come of a connection as one HTTP/1.1 request and nothing more: one of the request lines of `targets` (without CRLF), whole field lines, and a body of up to 64 KiB, or `maxBodyBytes`
 * where that is less, that is no longer than Content-Length says. Null for all else, of which node:http is the judge: heads that come in pieces, requests that come together or without a host, fields
 * that change how a message is read or what becomes of its connection, fields that come twice, and bytes that no gateway sends. What is read here, node:http reads in the same way
 * (test/http/plain-request.test.ts asks both).
 */
export function readPlainRequest<Target extends { readonly maxBodyBytes: number }>(
  chunk: Buffer,
  targets: ReadonlyMap<string, Target>,
): PlainRequest<Target> | null {
  const headEnd = chunk.indexOf('\r\n\r\n', 0, 'latin1');
  if (headEnd === -1 || headEnd > MAX_HEAD_BYTES) return null;
  const bodyStart = headEnd + 4;
  const text = chunk.toString('latin1', 0, bodyStart);
  const lineEnd = text.indexOf('\r\n');
  const target = targets.get(text.slice(0, lineEnd));
  if (target === undefined) return null;
  const fieldsStart = lineEnd + 2;
  FIELD_LINES.lastIndex = fieldsStart;
  if (!FIELD_LINES.test(text)) return null;

  let host: string | undefined;
  let length: string | undefined;
  let authorization: string | undefined;
  let contentType: string | undefined;
  let fields = 0;
  for (let start = fieldsStart; start < bodyStart - 2;) {
    if (++fields > MAX_FIELDS) return null;
    const colon = text.indexOf(':', start);
    const end = text.indexOf('\r\n', colon);
    const name = text.slice(start, colon).toLowerCase();
    const value = text.slice(colon + 1, end).trim();
    start = end + 2;
    switch (name) {
      case 'host':
        if (host !== undefined) return null;
        host = value;
        break;
      case 'content-length':
        if (length !== undefined) return null;
        length = value;
        break;
      case 'authorization':
        if (authorization !== undefined) return null;
        authorization = value;
        break;
      case 'content-type':
        if (contentType !== undefined) return null;
        contentType = value;
        break;
      case 'connection':
        if (value.toLowerCase() !== 'keep-alive') return null;
        break;
      case 'transfer-encoding':
      case 'content-encoding':
      case 'expect':
      case 'upgrade':
      case 'proxy-connection':
        return null;
      default:
    }
  }
  if (host === undefined || length === undefined || !LENGTH.test(length)) return null;
  const missing = Number(length) - (chunk.length - bodyStart);
  if (missing < 0 || Number(length) > Math.min(target.maxBodyBytes, MAX_BODY_BYTES)) return null;
  return {
    target,
    headers: { authorization, 'content-type': contentType, 'content-encoding': undefined },
    body: chunk.subarray(bodyStart),
    missing,
  };
}
