import type { LookupFunction } from 'node:net';
import { request as httpRequest, type ClientRequest, type IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { isIPv6 } from 'node:net';

import type { AddressPolicy } from './address-policy.ts';
import type { ResolveHost } from './resolve-host.ts';
import { literalAddress } from './webhook-url.ts';

/** So much of an answer's body is kept for the delivery log; the rest is not read. */
const RESPONSE_HEAD_BYTES = 1024;

export type Message = { readonly url: string; readonly headers: Readonly<Record<string, string>>; readonly body: string };

/** What became of one attempt. */
export type Posted = {
  readonly durationMs: number;
  /** Null where no answer came. */
  readonly status: number | null;
  /** In a sentence; null after 2xx. */
  readonly error: string | null;
  readonly responseHead: string | null;
  /** `Retry-After` of a 429 or 503, from now. */
  readonly retryAfterMs: number | null;
};

export type PostOptions = {
  readonly policy: AddressPolicy;
  readonly resolve: ResolveHost;
  /** From the first question to DNS to the head of the answer. */
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
};

/**
 * Posts one message. The name is resolved here, every address of it is judged, and the connection goes to one of those very addresses, so that a name which
 * answers otherwise the next time leads nowhere. Redirects are not followed. Rejects only when the signal fires.
 */
export async function postMessage(message: Message, { policy, resolve, timeoutMs, signal }: PostOptions): Promise<Posted> {
  const began = performance.now();
  const timeout = new AbortController();
  const timer = setTimeout(() => timeout.abort(), timeoutMs);
  const either = AbortSignal.any([signal, timeout.signal]);
  const answered = (rest: Omit<Posted, 'durationMs'>): Posted => ({ durationMs: Math.round(performance.now() - began), ...rest });
  const failed = (error: string): Posted => answered({ status: null, error, responseHead: null, retryAfterMs: null });
  try {
    const url = new URL(message.url);
    const addresses = await within(either, addressesOf(url, resolve, either));
    const refused = refusalOf(url, addresses, policy);
    if (refused !== null) return failed(refused);
    const response = await respond(message, url, addresses, either);
    const status = response.statusCode ?? 0;
    const responseHead = await readHead(response, either);
    const ok = status >= 200 && status < 300;
    const redirect = status >= 300 && status < 400 ? '; redirects are not followed' : '';
    return answered({
      status,
      error: ok ? null : `The receiver answered ${status}${redirect}.`,
      responseHead,
      retryAfterMs: status === 429 || status === 503 ? retryAfterMs(response.headers['retry-after']) : null,
    });
  } catch (error) {
    signal.throwIfAborted();
    return failed(timeout.signal.aborted ? `No answer within ${timeoutMs / 1000} seconds.` : sentenceOf(error));
  } finally {
    clearTimeout(timer);
  }
}

async function addressesOf(url: URL, resolve: ResolveHost, signal: AbortSignal): Promise<readonly string[]> {
  const literal = literalAddress(url);
  return literal === null ? resolve(url.hostname, signal) : [literal];
}

/** One address that is refused refuses the name: whoever mixes them hopes that the wrong one is taken. */
function refusalOf(url: URL, addresses: readonly string[], policy: AddressPolicy): string | null {
  for (const address of addresses) {
    const refused = policy.refusalOf(address);
    if (refused !== null) return `Nothing was sent: ${refused}.`;
    if (url.protocol === 'http:' && !policy.allowedByOperator(address))
      return `Nothing was sent: plain http goes to the private networks of WEBHOOK_ALLOW_PRIVATE alone, and ${address} is in none of them.`;
  }
  return addresses.length === 0 ? 'Nothing was sent: the name has no address.' : null;
}

function respond(message: Message, url: URL, addresses: readonly string[], signal: AbortSignal): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const start = url.protocol === 'https:' ? httpsRequest : httpRequest;
    const request: ClientRequest = start(
      url,
      {
        method: 'POST',
        headers: { ...message.headers, 'content-length': Buffer.byteLength(message.body) },
        agent: false, // a connection of its own, to the address that was judged just now
        lookup: pinned(addresses),
        maxHeaderSize: 16 * 1024,
        signal,
      },
      resolve,
    );
    request.once('error', reject);
    request.end(message.body);
  });
}

/** Answers every question for an address with those that were judged. */
function pinned(addresses: readonly string[]): LookupFunction {
  const all = addresses.map((address) => ({ address, family: isIPv6(address) ? 6 : 4 }));
  return (_hostname, options, callback) => {
    const [first] = all;
    if (options.all === true) callback(null, all);
    else callback(null, first?.address ?? '', first?.family);
  };
}

/** The first bytes of the body, as text that a database takes. What goes wrong while reading them doesn't change what the receiver has answered. */
async function readHead(response: IncomingMessage, signal: AbortSignal): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  response.on('error', () => undefined);
  try {
    const reading = (async () => {
      for await (const chunk of response as AsyncIterable<Buffer>) {
        chunks.push(chunk);
        length += chunk.length;
        if (length >= RESPONSE_HEAD_BYTES) break;
      }
    })();
    await within(signal, reading);
  } catch {
    // what has come until then is shown
  } finally {
    response.destroy();
  }
  return Buffer.concat(chunks).subarray(0, RESPONSE_HEAD_BYTES).toString('utf8').replaceAll('\0', '\uFFFD');
}

async function within<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => {
    reject(signal.reason as Error);
  };
  if (signal.aborted) onAbort();
  signal.addEventListener('abort', onAbort, { once: true });
  work.catch(() => undefined); // where the signal came first, nobody else hears of it
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

/** Seconds or an HTTP date (RFC 9110, 10.2.3). */
function retryAfterMs(header: string | undefined): number | null {
  if (header === undefined) return null;
  if (/^\d{1,9}$/.test(header.trim())) return Number(header) * 1000;
  const at = Date.parse(header);
  return Number.isNaN(at) ? null : Math.max(0, at - Date.now());
}

function sentenceOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) return sentenceOf(error.errors[0]);
  if (!(error instanceof Error)) return `No answer: ${String(error)}.`;
  const cause = error.cause instanceof Error ? ` (${error.cause.message})` : '';
  return `No answer: ${error.message}${cause}.`.slice(0, 500);
}
