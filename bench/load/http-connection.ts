import { connect, type Socket } from 'node:net';

const HEAD_END = '\r\n\r\n';
const LAST_CHUNK = '\r\n0\r\n\r\n';
const CONTENT_LENGTH = /\r\ncontent-length: *(\d+)/i;

export type HttpConnection = { send(request: Buffer): void; close(): void };

/** All connections read into this one, as what came is looked at before anything else is read: a buffer for each read is a tenth of the generator's time. */
const READ_BUFFER = Buffer.allocUnsafe(64 * 1024);

/**
 * A keep-alive HTTP/1.1 connection for load: no parser but the search for where an answer ends. `onAnswer` is given each answer whole, head included, and must not keep it.
 * Reopens by itself what the server closed; a request that was under way then is lost, and `onLost` is told.
 */
export function openHttpConnection(port: number, onAnswer: (answer: Buffer) => void, onLost: () => void): HttpConnection {
  let socket: Socket | undefined;
  let underWay = false;
  let closed = false;
  let received: Buffer | undefined;

  const take = (size: number): boolean => {
    const chunk = READ_BUFFER.subarray(0, size);
    const answer = received === undefined ? chunk : Buffer.concat([received, chunk]);
    if (isWhole(answer)) {
      received = undefined;
      underWay = false;
      onAnswer(answer);
    } else received = Buffer.from(answer);
    return true;
  };

  function open(): Socket {
    const opened = connect({ port, host: '127.0.0.1', noDelay: true, onread: { buffer: READ_BUFFER, callback: take } });
    opened.on('error', () => undefined); // 'close' follows
    opened.once('close', () => {
      if (socket === opened) socket = undefined;
      received = undefined;
      if (!underWay || closed) return;
      underWay = false;
      onLost();
    });
    return opened;
  }

  return {
    send(request) {
      underWay = true;
      socket ??= open();
      socket.write(request);
    },
    close() {
      closed = true;
      socket?.destroy();
    },
  };
}

function isWhole(answer: Buffer): boolean {
  const headEnd = answer.indexOf(HEAD_END);
  if (headEnd === -1) return false;
  const length = CONTENT_LENGTH.exec(answer.toString('latin1', 0, headEnd))?.[1];
  return length === undefined
    ? answer.toString('latin1', Math.max(0, answer.length - LAST_CHUNK.length)) === LAST_CHUNK
    : answer.length >= headEnd + HEAD_END.length + Number(length);
}
