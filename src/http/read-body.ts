import { refuse } from './answer.ts';
import type { Exchange } from './exchange.ts';

/** So much of a body beyond its limit is still read and thrown away: a client that is cut off while it writes often never reads why. */
const DISCARDED_BYTES = 8 * 1024 * 1024;

/**
 * Reads a body of `maxBytes` at most, by what Content-Length announces and by what arrives, and hands it to `done`. A larger one is refused (413) here; a client that goes away is forgotten.
 * How long it may take is the server's `requestTimeoutMs`. A callback and no promise: the hot path has nothing to wait for beside it.
 */
export function readBody(exchange: Exchange, maxBytes: number, done: (body: Buffer) => void): void {
  const { request } = exchange;
  const tooLarge = `The body is larger than ${maxBytes} bytes; send less at once.`;
  const announced = Number(request.headers['content-length']);
  let refused = false;
  let first: Buffer | undefined;
  let more: Buffer[] | undefined;
  let size = 0;
  const onEnd = (): void => {
    if (!refused) done(more === undefined ? (first ?? EMPTY) : Buffer.concat(more, size));
  };
  // 'error' comes when the client goes away in the middle; without a listener it would end the process.
  request.on('error', ignore);
  request.on('data', (chunk: Buffer) => {
    // As nearly all come; who listens for the end as well pays for it.
    if (chunk.length === announced && !refused) return done(chunk);
    if (size === 0 && announced > 0) request.on('end', onEnd);
    size += chunk.length;
    if (refused) {
      if (size > maxBytes + DISCARDED_BYTES) request.destroy();
    } else if (size > maxBytes) {
      refused = true;
      first = more = undefined;
      refuse(exchange, 'PAYLOAD_TOO_LARGE', tooLarge);
    } else if (first === undefined) first = chunk;
    else (more ??= [first]).push(chunk);
  });
  if (announced > maxBytes) {
    refused = true;
    refuse(exchange, 'PAYLOAD_TOO_LARGE', tooLarge);
  } else if (!(announced > 0)) request.on('end', onEnd); // empty, or of a length that nobody told
}

const EMPTY = Buffer.alloc(0);

function ignore(): void {
  // nobody is there to be told
}
