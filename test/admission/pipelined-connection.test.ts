import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';

import { afterEach, beforeEach, expect, it } from 'vitest';

import { openPipelinedConnection, type PipelinedConnection } from '../../src/admission/pipelined-connection.ts';
import { clientConfig } from '../../src/postgres/client-config.ts';
import { Secret } from '../../src/lib/secret.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';

let target: TestDatabase;
let proxy: Server;
let connection: PipelinedConnection | undefined;
const sockets = new Set<Socket>();
/** Connections that are closed before they reach Postgres. */
let refused = 0;

beforeEach(async () => {
  target = await createTestDatabase({ empty: true });
  const { hostname, port } = new URL(target.serverUrl.reveal());
  proxy = createServer((socket) => {
    sockets.add(socket.on('error', () => undefined));
    if (refused > 0) {
      refused--;
      socket.destroy();
      return;
    }
    const onward = connect(Number(port), hostname).on('error', () => undefined);
    sockets.add(onward);
    socket.pipe(onward).pipe(socket);
    socket.on('close', () => onward.destroy());
    onward.on('close', () => socket.destroy());
  });
  proxy.listen(0, '127.0.0.1');
  await once(proxy, 'listening');
});

afterEach(async () => {
  await connection?.close();
  connection = undefined;
  for (const socket of sockets) socket.destroy();
  sockets.clear();
  proxy.close();
  await target.drop();
});

function open(): { readonly opened: PipelinedConnection; readonly errors: Error[] } {
  const url = new URL(target.serverUrl.reveal());
  url.hostname = '127.0.0.1';
  url.port = String((proxy.address() as AddressInfo).port);
  const errors: Error[] = [];
  connection = openPipelinedConnection({
    config: clientConfig({ connectionString: new Secret(url.toString()), applicationName: 'pipelined', role: null }),
    onError: (error) => errors.push(error),
    onConnect: () => undefined,
  });
  return { opened: connection, errors };
}

const never = new AbortController().signal;

it('whoever waits for a connection is told of the one that succeeds, and of the next when that is lost', async () => {
  refused = 3;
  const { opened, errors } = open();
  await opened.whenConnected(never);
  expect(errors.length).toBeGreaterThanOrEqual(3);
  expect(await opened.query({ text: 'SELECT 1 AS one' })).toEqual([{ one: 1 }]);
  const before = errors.length;
  for (const socket of sockets) socket.destroy();
  await expect.poll(() => errors.length).toBeGreaterThan(before);
  await opened.whenConnected(never);
  expect(await opened.query({ text: 'SELECT 2 AS two' })).toEqual([{ two: 2 }]);
});

it('who has given up is told so, whether before or while there is none', async () => {
  refused = Infinity;
  const { opened } = open();
  const stopping = new AbortController();
  const waiting = opened.whenConnected(stopping.signal);
  stopping.abort(new Error('stopped'));
  await expect(waiting).rejects.toThrow('stopped');
  await expect(opened.whenConnected(stopping.signal)).rejects.toThrow('stopped');
  refused = 0;
});
