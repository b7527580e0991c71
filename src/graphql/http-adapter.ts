import { Readable } from 'node:stream';
import type { IncomingMessage, ServerResponse } from 'node:http';

/** Answers a preflight or sets the CORS headers. False where the request is answered. Origins that are not listed get none, so that browsers refuse. */
export function applyCors(req: IncomingMessage, res: ServerResponse, allowedOrigins: readonly string[]): boolean {
  const { origin } = req.headers;
  res.setHeader('Vary', 'Origin');
  if (origin !== undefined && isAllowedOrigin(origin, req.headers.host, allowedOrigins)) {
    res.setHeader('Access-Control-Allow-Origin', origin);
    res.setHeader('Access-Control-Expose-Headers', 'Retry-After');
    if (req.method === 'OPTIONS') {
      res.setHeader('Access-Control-Allow-Methods', 'GET, POST, OPTIONS');
      res.setHeader('Access-Control-Allow-Headers', 'Authorization, Content-Type, Accept');
      res.setHeader('Access-Control-Max-Age', '600');
    }
  }
  if (req.method !== 'OPTIONS') return true;
  res.writeHead(204).end();
  return false;
}

/** A browser's origin is the server's own, or listed. */
export function isAllowedOrigin(origin: string, host: string | undefined, allowedOrigins: readonly string[]): boolean {
  if (allowedOrigins.includes('*') || allowedOrigins.includes(origin.toLowerCase())) return true;
  return host !== undefined && URL.canParse(origin) && new URL(origin).host === host.toLowerCase();
}

/**
 * Makes sure that a body is within the cap. Node holds a client to its Content-Length, so only a body without one has to be counted; it is read here and
 * handed on. Null where the request was answered with 413, or is gone.
 */
export async function withinCap(req: IncomingMessage, res: ServerResponse, maxBytes: number): Promise<IncomingMessage | null> {
  const length = req.headers['content-length'];
  if (length !== undefined) return Number(length) <= maxBytes ? req : refuseTooLarge(req, res, maxBytes);
  if (req.headers['transfer-encoding'] === undefined) return req;
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of req as AsyncIterable<Buffer>) {
      bytes += chunk.length;
      if (bytes > maxBytes) return refuseTooLarge(req, res, maxBytes);
      chunks.push(chunk);
    }
  } catch {
    return null; // the client went away in the middle of its request
  }
  return withBody(req, chunks);
}

/** A request whose body was read, as Yoga reads it again. */
export function withBody(req: IncomingMessage, chunks: readonly Buffer[]): IncomingMessage {
  return Object.assign(req, { body: Readable.from(chunks) });
}

function refuseTooLarge(req: IncomingMessage, res: ServerResponse, maxBytes: number): null {
  const message = `A GraphQL request can have ${maxBytes} bytes at most.`;
  const body = JSON.stringify({ errors: [{ message, extensions: { code: 'BAD_USER_INPUT' } }] });
  // The rest of the body is not read: the connection can't be used again.
  if (!res.headersSent)
    res
      .writeHead(413, { 'Content-Type': 'application/json; charset=utf-8', 'Content-Length': Buffer.byteLength(body), Connection: 'close' })
      .end(body);
  req.resume();
  return null;
}
