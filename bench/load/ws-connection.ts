import { randomBytes } from 'node:crypto';
import { connect } from 'node:net';

const HEAD_END = '\r\n\r\n';
const OPCODES = { text: 1, close: 8, ping: 9, pong: 10 } as const;
const NOT_SPLIT = 0x80;
const MASKED = 0x80;

export type WsConnection = { send(text: string): void; close(): void };

export type WsHandlers = {
  /** Given each message; must not keep it. */
  readonly onText: (message: Buffer) => void;
  readonly onClosed: (why: string) => void;
};

/** All connections read into this one, as what came is looked at before anything else is read. */
const READ_BUFFER = Buffer.allocUnsafe(64 * 1024);

/**
 * A WebSocket (RFC 6455) that holds a place among thousands and costs little, as their work is done on the machine that is measured: no extensions, no split messages, and what the server sends is below
 * 64 KiB. Resolves when it is open.
 */
export function openWsConnection(port: number, path: string, protocol: string, { onText, onClosed }: WsHandlers): Promise<WsConnection> {
  const { promise, resolve, reject } = Promise.withResolvers<WsConnection>();
  let open = false;
  let rest: Buffer | undefined;

  const take = (size: number): boolean => {
    const chunk = READ_BUFFER.subarray(0, size);
    let data = rest === undefined ? chunk : Buffer.concat([rest, chunk]);
    rest = undefined;
    if (!open) {
      const headEnd = data.indexOf(HEAD_END);
      if (headEnd === -1) {
        rest = Buffer.from(data);
        return true;
      }
      const head = data.toString('latin1', 0, headEnd);
      if (!head.startsWith('HTTP/1.1 101')) {
        end(`answered ${head.slice(0, 200)}`);
        return false;
      }
      open = true;
      resolve({ send: (text) => send(OPCODES.text, Buffer.from(text)), close: () => end(null) });
      data = data.subarray(headEnd + HEAD_END.length);
    }
    const left = takeFrames(data);
    if (left.length > 0) rest = Buffer.from(left);
    return true;
  };

  /** Answers what is not whole yet. */
  function takeFrames(data: Buffer): Buffer {
    let at = 0;
    for (;;) {
      const [first, second] = [data[at], data[at + 1]];
      if (first === undefined || second === undefined) return data.subarray(at);
      const long = second === 126;
      if (long && data.length < at + 4) return data.subarray(at);
      const start = at + (long ? 4 : 2);
      const stop = start + (long ? data.readUInt16BE(at + 2) : second);
      if (second > 126 || (first & NOT_SPLIT) === 0) {
        end('sent a frame that is masked, split, or of 64 KiB and more');
        return data.subarray(data.length);
      }
      if (data.length < stop) return data.subarray(at);
      const payload = data.subarray(start, stop);
      const opcode = first & 0x0f;
      if (opcode === OPCODES.text) onText(payload);
      else if (opcode === OPCODES.ping) send(OPCODES.pong, payload);
      else if (opcode === OPCODES.close)
        end(`closed: ${payload.length < 2 ? 'no code' : `${payload.readUInt16BE(0)} ${payload.toString('utf8', 2)}`}`);
      at = stop;
    }
  }

  const socket = connect({ port, host: '127.0.0.1', noDelay: true, onread: { buffer: READ_BUFFER, callback: take } });
  socket.on('error', (error) => end(error.message));
  socket.once('close', () => end('the connection ended'));
  socket.once('connect', () => {
    const key = randomBytes(16).toString('base64');
    socket.write(
      `GET ${path} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n` +
        `Sec-WebSocket-Key: ${key}\r\nSec-WebSocket-Protocol: ${protocol}${HEAD_END}`,
    );
  });

  let ended = false;
  /** Null where it was asked for. */
  function end(why: string | null): void {
    if (ended) return;
    ended = true;
    socket.destroy();
    if (why === null) return;
    if (open) onClosed(why);
    else reject(new Error(`a WebSocket ${why}`));
  }

  /** Masked with zeros, which changes nothing: the mask is for proxies between, and here is none. */
  function send(opcode: number, payload: Buffer): void {
    const head = payload.length < 126 ? Buffer.alloc(6) : Buffer.alloc(8);
    head[0] = NOT_SPLIT | opcode;
    head[1] = MASKED | Math.min(payload.length, 126);
    if (payload.length >= 126) head.writeUInt16BE(payload.length, 2);
    socket.write(Buffer.concat([head, payload]));
  }

  return promise;
}
