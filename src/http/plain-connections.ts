import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';

import { refuseError } from './answer.ts';
import type { AnswerSink, FieldList, HttpScope, PlainHandler, Route } from './exchange.ts';
import { readPlainRequest, type PlainRequest } from './plain-request.ts';

const SECOND_MS = 1000;
/** A body of the largest size comes in far fewer over any network; each is looked at with all that came before. */
const MAX_PIECES = 64;

export type PlainConnections = {
  /** Serves a new connection. */
  serve(socket: Socket): void;
  /** Ends those on which no answer is awaited or on its way. */
  closeIdle(): void;
  closeAll(): void;
};

type Options = {
  /** Those of them that have `plain` are answered here. */
  readonly routes: readonly Route[];
  readonly scope: HttpScope;
  /** Makes node:http the reader of a connection. */
  readonly handOver: (socket: Socket) => void;
  /** How long a connection may be silent at its beginning, before the rest of a body, and between two requests. */
  readonly silence: { readonly firstMs: number; readonly bodyMs: number; readonly keepAliveMs: number };
  /** Tells a client that its request did not come or never ended, with the code that node:http has for it. */
  readonly onBroken: (error: Error & { readonly code: string }, socket: Socket) => void;
};

/**
 * Serves connections that carry nothing but plain requests ({@link readPlainRequest}), one after the other, without node:http, which takes as long to read a request and to write its
 * answer as deciding it does. With the first bytes of any other kind a connection becomes node:http's, for good and with those bytes: it alone
 * judges what is malformed, pipelined or for another path, and its limits of size and time hold for that. Answers are the same to the byte, but for those of a server that drains and of
 * clients that have closed their half of the connection, to which node:http says nothing.
 */
export function createPlainConnections(options: Options): PlainConnections {
  const connections = new Set<PlainConnection>();
  const context = contextOf(options);
  return {
    serve(socket) {
      const connection = new PlainConnection(socket, context, () => connections.delete(connection));
      connections.add(connection);
    },
    closeIdle() {
      for (const connection of connections) if (connection.idle) connection.socket.destroy();
    },
    closeAll() {
      for (const connection of connections) connection.socket.destroy();
    },
  };
}

type Target = PlainHandler & { readonly name: string };

function contextOf({ routes, ...others }: Options) {
  const targets = new Map<string, Target>();
  for (const { method, path, name, plain } of routes)
    if (plain !== undefined) targets.set(`${method} ${path} HTTP/1.1`, { ...plain, name });
  return { ...others, targets };
}

type Context = ReturnType<typeof contextOf>;

class PlainConnection {
  readonly socket: Socket;
  readonly context: Context;
  readonly #leave: () => void;
  /** That is being decided; its answer is the next thing to be written. */
  #current: PlainAnswer | undefined;
  /** What came while an answer was awaited, or the request whose body is still to come. */
  #kept: Buffer | undefined;
  /** Of that request. */
  #pieces = 0;
  #dueMs = 0;
  #served = false;
  #timeoutMs = 0;
  /** The client has sent all that it will. */
  #halfClosed = false;
  /** What is written last is on its way; nothing more is read. */
  #ending = false;

  constructor(socket: Socket, context: Context, leave: () => void) {
    this.socket = socket;
    this.context = context;
    this.#leave = leave;
    this.#expectWithin(context.silence.firstMs);
    socket.on('data', this.#onData).on('end', this.#onEnd).on('drain', this.#onDrain).on('timeout', this.#onTimeout);
    socket.on('error', this.#onError).on('close', leave);
  }

  /** As node:http sees it, a connection on which nothing has come is about to be used. */
  get idle(): boolean {
    return this.#served && this.#current === undefined && this.#kept === undefined && this.socket.writableLength === 0;
  }

  /** Whether the answer that is written now is the last one. */
  get last(): boolean {
    return this.#halfClosed || this.context.scope.isDraining();
  }

  #expectWithin(ms: number): void {
    if (ms === this.#timeoutMs) return;
    this.#timeoutMs = ms;
    this.socket.setTimeout(ms);
  }

  readonly #onData = (chunk: Buffer): void => {
    if (this.#ending) return;
    const kept = this.#kept;
    const bytes = kept === undefined ? chunk : Buffer.concat([kept, chunk]);
    if (this.#current !== undefined) {
      // Pipelined requests are node:http's, once the one before them is answered.
      this.#kept = bytes;
      this.socket.pause();
      return;
    }
    const request = readPlainRequest(bytes, this.context.targets);
    if (request === null) return this.#release(bytes);
    if (request.missing > 0) return this.#await(bytes, request);
    this.#kept = undefined;
    this.#pieces = 0;
    this.#served = true;
    // A second more than clients are told, as node:http has it: theirs must be the end that closes.
    this.#expectWithin(this.context.silence.keepAliveMs + SECOND_MS);
    this.#handle(request);
  };

  /** The rest of a body. Whoever is refused without a look at it is so at once, by node:http. */
  #await(bytes: Buffer, { headers }: PlainRequest<Target>): void {
    const { bodyMs } = this.context.silence;
    if (++this.#pieces > MAX_PIECES || headers.authorization === undefined) return this.#release(bytes);
    if (this.#pieces === 1) this.#dueMs = performance.now() + bodyMs;
    else if (performance.now() > this.#dueMs) return this.#break('ERR_HTTP_REQUEST_TIMEOUT', 'a body did not come in time');
    this.#kept = bytes;
    this.#expectWithin(bodyMs);
  }

  #handle({ target, headers, body }: PlainRequest<Target>): void {
    const response = (this.#current = new PlainAnswer(this));
    const request = { headers, socket: this.socket };
    const exchange = { request, response, route: target.name, startedMs: performance.now(), scope: this.context.scope };
    try {
      const pending = target.handle(exchange, body);
      if (pending !== undefined) {
        pending.catch((error: unknown) => {
          refuseError(exchange, error);
        });
      }
    } catch (error) {
      refuseError(exchange, error);
    }
  }

  #release(bytes: Buffer): void {
    const { socket } = this;
    socket.off('data', this.#onData).off('end', this.#onEnd).off('drain', this.#onDrain).off('timeout', this.#onTimeout);
    socket.off('error', this.#onError).off('close', this.#leave);
    socket.setTimeout(0);
    this.#leave();
    this.context.handOver(socket);
    if (socket.isPaused()) socket.resume();
    socket.emit('data', bytes);
  }

  answer(text: string, last: boolean): void {
    this.#current = undefined;
    const flushed = this.socket.write(text);
    if (last) return this.#end();
    if (this.#kept !== undefined) return this.#release(this.#kept);
    // A client that does not read its answers is not read either.
    if (!flushed) this.socket.pause();
  }

  /** Ends the connection once all is written, or when nobody has read it for too long. */
  #end(): void {
    this.#ending = true;
    this.#kept = undefined;
    this.socket.setTimeout(this.context.silence.keepAliveMs);
    this.socket.destroySoon();
  }

  readonly #onDrain = (): void => {
    if (this.#current === undefined) this.socket.resume();
  };

  readonly #onEnd = (): void => {
    this.#halfClosed = true;
    if (this.#current !== undefined || this.#ending) return;
    if (this.#kept === undefined) this.#end();
    else this.#break('HPE_INVALID_EOF_STATE', 'the client sent half of a request');
  };

  readonly #onTimeout = (): void => {
    if (this.#current !== undefined) return;
    if (this.#ending || (this.#served && this.#kept === undefined)) this.socket.destroy();
    else this.#break('ERR_HTTP_REQUEST_TIMEOUT', 'a request did not come in time');
  };

  #break(code: string, message: string): void {
    this.context.onBroken(Object.assign(new Error(message), { code }), this.socket);
    this.#end();
  }

  readonly #onError = (): void => {
    this.socket.destroy();
  };
}

/** Writes what node:http's ServerResponse would write. */
class PlainAnswer implements AnswerSink {
  readonly #connection: PlainConnection;
  #head = '';

  constructor(connection: PlainConnection) {
    this.#connection = connection;
  }

  get headersSent(): boolean {
    return this.#head !== '';
  }

  get destroyed(): boolean {
    return this.#connection.socket.destroyed;
  }

  writeHead(status: number, fields: FieldList): void {
    let head = `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n`;
    for (let place = 0; place < fields.length; place += 2) head += `${fields[place]}: ${fields[place + 1]}\r\n`;
    this.#head = head;
  }

  end(body: string): void {
    const { context, last } = this.#connection;
    const connection = last ? 'close' : `keep-alive\r\nKeep-Alive: timeout=${context.silence.keepAliveMs / SECOND_MS}`;
    this.#connection.answer(`${this.#head}Date: ${httpDate()}\r\nConnection: ${connection}\r\n\r\n${body}`, last);
  }
}

let dateText = '';
let dateSecond = 0;

/** The present as RFC 9110, 5.6.7, writes it; made once a second. */
function httpDate(): string {
  const second = Math.floor(Date.now() / SECOND_MS);
  if (second !== dateSecond) {
    dateSecond = second;
    dateText = new Date(second * SECOND_MS).toUTCString();
  }
  return dateText;
}
