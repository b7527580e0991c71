import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';

import { refuseError } from './answer.ts';
import type { AnswerSink, FieldList, HttpScope, Route } from './exchange.ts';
import { readPlainRequest, type PlainRequest } from './plain-request.ts';

const SECOND_MS = 1000;

export type PlainConnections = {
  /** Serves a new connection. */
  serve(socket: Socket): void;
  /** Ends those on which no answer is awaited or on its way. */
  closeIdle(): void;
  closeAll(): void;
};

type Options = {
  /** The route that is answered here; it must have `handlePlain`. */
  readonly route: Route;
  readonly scope: HttpScope;
  /** Makes node:http the reader of a connection. */
  readonly handOver: (socket: Socket) => void;
  /** How long a connection may be silent at its beginning, before the rest of a body, and between two requests. */
  readonly silence: { readonly firstMs: number; readonly bodyMs: number; readonly keepAliveMs: number };
  /** Tells a client that its request did not come or never ended, with the code that node:http has for it. */
  readonly onBroken: (error: Error & { readonly code: string }, socket: Socket) => void;
};

/**
 * Serves connections that carry nothing but plain requests for one route ({@link readPlainRequest}), one after the other, without node:http, which takes as long to read a request and to write its
 * answer as deciding it does. A body may come in a piece of its own, as many clients send it. With the first bytes of any other kind a connection becomes node:http's, for good and with those bytes: it alone
 * judges what is malformed, in more pieces, pipelined or for another path, and its limits of size and time hold for that. Answers are the same to the byte.
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

function contextOf({ route, scope, handOver, silence, onBroken }: Options) {
  const { method, path, name, handlePlain } = route;
  if (handlePlain === undefined) throw new Error(`The route ${name} can't be served without node:http.`);
  return { requestLine: `${method} ${path} HTTP/1.1\r\n`, name, handlePlain, scope, handOver, silence, onBroken };
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
  #timeoutMs = 0;
  /** The client has sent all that it will. */
  #ended = false;

  constructor(socket: Socket, context: Context, leave: () => void) {
    this.socket = socket;
    this.context = context;
    this.#leave = leave;
    this.#expectWithin(context.silence.firstMs);
    socket.on('data', this.#onData).on('end', this.#onEnd).on('drain', this.#onDrain).on('timeout', this.#onTimeout);
    socket.on('error', this.#onError).on('close', leave);
  }

  get idle(): boolean {
    return this.#current === undefined && this.#kept === undefined && this.socket.writableLength === 0;
  }

  #expectWithin(ms: number): void {
    if (ms === this.#timeoutMs) return;
    this.#timeoutMs = ms;
    this.socket.setTimeout(ms);
  }

  readonly #onData = (chunk: Buffer): void => {
    const kept = this.#kept;
    const bytes = kept === undefined ? chunk : Buffer.concat([kept, chunk]);
    if (this.#current !== undefined) {
      // Pipelined requests are node:http's, once the one before them is answered.
      this.#kept = bytes;
      this.socket.pause();
      return;
    }
    const request = readPlainRequest(bytes, this.context.requestLine);
    if (request === null || (request.missing > 0 && kept !== undefined)) return this.#release(bytes);
    const { silence } = this.context;
    if (request.missing > 0) {
      this.#kept = bytes;
      this.#expectWithin(silence.bodyMs);
      return;
    }
    this.#kept = undefined;
    this.#expectWithin(silence.keepAliveMs);
    this.#handle(request);
  };

  #handle({ headers, body }: PlainRequest): void {
    const { scope, name, handlePlain } = this.context;
    const response = (this.#current = new PlainAnswer(this));
    const exchange = { request: { headers, socket: this.socket }, response, route: name, startedMs: performance.now(), scope };
    try {
      handlePlain(exchange, body);
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
    if (last || this.#ended) return this.socket.destroySoon();
    if (this.#kept !== undefined) return this.#release(this.#kept);
    // A client that does not read its answers is not read either.
    if (!flushed) this.socket.pause();
  }

  readonly #onDrain = (): void => {
    if (this.#current === undefined) this.socket.resume();
  };

  readonly #onEnd = (): void => {
    this.#ended = true;
    if (this.#current !== undefined) return;
    if (this.#kept === undefined) this.socket.destroySoon();
    else this.#break('HPE_INVALID_EOF_STATE', 'the client sent half of a request');
  };

  readonly #onTimeout = (): void => {
    if (this.#current !== undefined) return;
    if (this.#kept === undefined && this.#timeoutMs === this.context.silence.keepAliveMs) this.socket.destroy();
    else this.#break('ERR_HTTP_REQUEST_TIMEOUT', 'a request did not come in time');
  };

  #break(code: string, message: string): void {
    this.context.onBroken(Object.assign(new Error(message), { code }), this.socket);
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
    const { scope, silence } = this.#connection.context;
    const last = scope.isDraining();
    const connection = last ? 'close' : `keep-alive\r\nKeep-Alive: timeout=${silence.keepAliveMs / SECOND_MS}`;
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
