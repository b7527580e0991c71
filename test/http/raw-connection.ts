import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

export type RawConnection = {
  readonly socket: Socket;
  write(text: string): void;
  /** All that came so far. */
  received(): string;
  /** Resolves when what came holds the text; fails after five seconds or where the other end closes before. */
  until(text: string): Promise<string>;
  /** Resolves with all that came, when the other end has closed. */
  ended(): Promise<string>;
};

/** A TCP connection for requests that no HTTP client would send. */
export async function openRawConnection(port: number): Promise<RawConnection> {
  const socket = connect(port, '127.0.0.1');
  await once(socket, 'connect');
  let text = '';
  socket.setEncoding('utf8');
  socket.on('data', (chunk: string) => (text += chunk));
  socket.on('error', () => undefined);
  // Not `once`, which rejects on the error of a connection that was reset.
  const closed = new Promise<void>((resolve) => socket.on('close', () => resolve()));
  return {
    socket,
    write: (part) => void socket.write(part),
    received: () => text,
    async until(wanted) {
      const deadline = AbortSignal.timeout(5000);
      while (!text.includes(wanted)) {
        if (socket.closed || deadline.aborted) throw new Error(`${JSON.stringify(wanted)} never came, only: ${text}`);
        await Promise.race([once(socket, 'data', { signal: deadline }).catch(() => undefined), closed]);
      }
      return text;
    },
    async ended() {
      await closed;
      return text;
    },
  };
}
