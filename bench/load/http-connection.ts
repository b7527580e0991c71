import { connect, type Socket } from 'node:net';

const HEAD_END = '\r\n\r\n';
const LAST_CHUNK = '\r\n0\r\n\r\n';
const LENGTH_FIELD = Buffer.from('\r\ncontent-length:');
const [CR, LF, SPACE, DIGIT_0] = [0x0d, 0x0a, 0x20, 0x30];
/** The bit that a small letter of ASCII has; hyphen and colon have it too. */
const LOWER_CASE = 0x20;

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

type Head = { /** Where the field of the length begins. */ readonly field: number; /** Where the blank line does. */ readonly end: number };

/** Of the answer before: most answers of a server have the length in the same place, and the head's end too, and to look there takes a thirtieth of a search. */
let last: Head = { field: 0, end: 0 };

function isWhole(answer: Buffer): boolean {
  if (!isHeadOf(answer, last)) {
    const end = answer.indexOf(HEAD_END);
    if (end === -1) return false;
    const field = answer.toString('latin1', 0, end).toLowerCase().indexOf(LENGTH_FIELD.toString());
    if (field === -1) return answer.toString('latin1', Math.max(0, answer.length - LAST_CHUNK.length)) === LAST_CHUNK;
    last = { field, end };
  }
  let length = 0;
  let at = last.field + LENGTH_FIELD.length;
  while (answer[at] === SPACE) at++;
  for (; ; at++) {
    const digit = (answer[at] ?? 0) - DIGIT_0;
    if (digit < 0 || digit > 9) break;
    length = length * 10 + digit;
  }
  return answer.length >= last.end + HEAD_END.length + length;
}

function isHeadOf(answer: Buffer, { field, end }: Head): boolean {
  if (answer[end] !== CR || answer[end + 1] !== LF || answer[end + 2] !== CR || answer[end + 3] !== LF) return false;
  for (let index = 0; index < LENGTH_FIELD.length; index++) {
    const byte = answer[field + index] ?? 0;
    if ((index < 2 ? byte : byte | LOWER_CASE) !== LENGTH_FIELD[index]) return false;
  }
  return true;
}
