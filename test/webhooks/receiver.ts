import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export type Received = {
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  readonly path: string;
  readonly at: number;
};

export type Receiver = Awaited<ReturnType<typeof openReceiver>>;

/** A receiver of webhooks on loopback. `answer` is asked for each request; by default it is content with everything. */
export async function openReceiver(
  answer: (received: Received, response: ServerResponse) => void = (_received, response) => response.end(),
) {
  const received: Received[] = [];
  let answering = answer;
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const one = { headers: flat(request.headers), body: Buffer.concat(chunks).toString('utf8'), path: request.url ?? '', at: Date.now() };
      received.push(one);
      answering(one, response);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    port,
    url: `http://127.0.0.1:${port}/hook`,
    received,
    answer(next: typeof answer) {
      answering = next;
    },
    async close() {
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      });
    },
  };
}

function flat(headers: IncomingHttpHeaders): Readonly<Record<string, string>> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name, Array.isArray(value) ? value.join(', ') : (value ?? '')]),
  );
}

/** Answers with a status and perhaps headers. */
export function status(code: number, headers: Readonly<Record<string, string>> = {}, body = '') {
  return (_received: Received, response: ServerResponse): void => {
    response.writeHead(code, headers);
    response.end(body);
  };
}
