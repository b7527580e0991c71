import type { Duplex } from 'node:stream';
import { STATUS_CODES } from 'node:http';

import { REQUEST_REFUSALS, type RequestRefusalCode } from '../domain/refusals.ts';
import { errorBody } from './answer.ts';

/**
 * Answers what never became a request: a head that can't be parsed or is too large, a body that doesn't come. Written to the socket as it is, since there is no response object to it; nothing is written where
 * an answer has begun.
 */
export function answerBrokenRequest(error: Error & { readonly code?: string }, socket: Duplex): void {
  const code = codeOf(error.code);
  // Node's own handler asks the same private field: whether another answer is on its way on this socket.
  const { _httpMessage: current } = socket as Duplex & { readonly _httpMessage?: { readonly headersSent: boolean } | null };
  if (code === null || !socket.writable || current?.headersSent === true) {
    socket.destroy();
    return;
  }
  const { httpStatus, message } = REQUEST_REFUSALS[code];
  const body = errorBody(code, `${message}.`);
  const head = `HTTP/1.1 ${httpStatus} ${STATUS_CODES[httpStatus]}\r\nConnection: close\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: ${Buffer.byteLength(body)}`;
  socket.end(`${head}\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\r\n${body}`, () => socket.destroy());
}

function codeOf(nodeCode: string | undefined): RequestRefusalCode | null {
  switch (nodeCode) {
    case 'ECONNRESET':
    case 'EPIPE':
      return null;
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return 'REQUEST_TIMEOUT';
    case 'HPE_HEADER_OVERFLOW':
    case 'HPE_CHUNK_EXTENSIONS_OVERFLOW':
      return nodeCode === 'HPE_HEADER_OVERFLOW' ? 'HEADERS_TOO_LARGE' : 'PAYLOAD_TOO_LARGE';
    default:
      return 'BAD_USER_INPUT';
  }
}
