import { connect, type Socket } from 'node:net';

const HEAD_END = '\r\n\r\n';
const LAST_CHUNK = '\r\n0\r\n\r\n';
const CONTENT_LENGTH = /\r\ncontent-length: *(\d+)/i;

export type HttpConnection = { send(request: Buffer): void; close(): void };

/**
 * A keep-alive HTTP/1.1 connection for load: no parser but the search for where an answer ends. `onAnswer` is given each answer whole, head included.
 * Reopens by itself what the server closed; a request that was under way then is lost, and `onLost` is told.
 */
export function openHttpConnection(port: number, onAnswer: (answer: Buffer) => void, onLost: () => void): HttpConnection {
  let socket: Socket | undefined;
  let underWay = false;
  let closed = false;
  let received: Buffer | undefined;

  function open(): Socket {
    const opened = connect({ port, host: '127.0.0.1', noDelay: true });
    opened.on('data', (chunk) => {
      received = received === undefined ? chunk : Buffer.concat([received, chunk]);
      if (!isWhole(received)) return;
      const answer = received;
      received = undefined;
      underWay = false;
      onAnswer(answer);
    });
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
