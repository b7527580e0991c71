import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import WebSocket, { WebSocketServer } from 'ws';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { plainFrame } from '../../src/graphql/plain-frame.ts';

describe('a text message as one string', () => {
  const http = createServer();
  const wss = new WebSocketServer({ noServer: true, perMessageDeflate: false });
  let client: WebSocket;
  let write: (text: string) => void;
  let received: string[];
  beforeAll(async () => {
    received = [];
    http.on('upgrade', (req, connection, head) =>
      wss.handleUpgrade(req, connection, head, (socket) => {
        // Between frames of the library's own, as it is used.
        write = (text) => {
          socket.send('before');
          const frame = plainFrame(text);
          if (frame === null) socket.send(text);
          else connection.write(frame, 'latin1');
          socket.send('after');
        };
        socket.send('ready');
      }),
    );
    await once(http.listen(0, '127.0.0.1'), 'listening');
    client = new WebSocket(`ws://127.0.0.1:${(http.address() as AddressInfo).port}`);
    client.on('message', (data: Buffer) => received.push(data.toString('utf8')));
    await once(client, 'message');
  });
  afterAll(() => {
    client.terminate();
    http.close();
  });

  it.each([0, 1, 125, 126, 127, 255, 256, 65_535])('of %i characters is what a client reads', async (length) => {
    received = [];
    const text = 'x~\n"\0'.repeat(length).slice(0, length);
    expect(plainFrame(text)).not.toBeNull();
    write(text);
    await expect.poll(() => received).toEqual(['before', text, 'after']);
  });

  it.each(['Grüße', 'clé', '鍵', '\x80', 'x'.repeat(65_536)])('is left to the library where it is not ASCII or too long', async (text) => {
    received = [];
    expect(plainFrame(text)).toBeNull();
    write(text);
    await expect.poll(() => received).toEqual(['before', text, 'after']);
  });
});
