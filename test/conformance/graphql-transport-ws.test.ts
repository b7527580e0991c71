import { once } from 'node:events';

import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import WebSocket from 'ws';

import { startTestServer, type TestServer } from '../support/server.ts';

// The cases of https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md, on a bare socket. That a socket which says nothing is closed with 4408
// is tested with the limits, where the time to wait can be set.

const DEADLINE_MS = 5000;
const TYPENAME = { query: '{ __typename }' };

type Message = { readonly type: string; readonly id?: string; readonly payload?: unknown };
type Peer = {
  readonly protocol: string;
  send(message: Message | string): void;
  /** The next message that the server has sent; rejects at its close or after a deadline. */
  next(): Promise<Message>;
  /** The code that the server closes with. */
  closed(): Promise<number>;
};

describe('graphql-transport-ws', () => {
  let server: TestServer;
  let organization: string;
  const sockets: WebSocket[] = [];
  beforeAll(async () => {
    server = await startTestServer();
    organization = ((await server.query('{ viewer { organization { id } } }'))['viewer'] as { organization: { id: string } }).organization
      .id;
  });
  afterEach(() => {
    for (const socket of sockets.splice(0)) socket.terminate();
  });
  afterAll(() => server.close());

  async function connect(protocols: readonly string[] = ['graphql-transport-ws']): Promise<Peer> {
    const socket = new WebSocket(`${server.url.replace('http:', 'ws:')}/graphql`, [...protocols]);
    sockets.push(socket);
    const received: Message[] = [];
    const closing = once(socket, 'close').then(([code]) => code as number);
    closing.catch(() => undefined);
    let arrived = Promise.withResolvers<void>();
    socket.on('message', (data: Buffer) => {
      received.push(JSON.parse(data.toString('utf8')) as Message);
      arrived.resolve();
    });
    await once(socket, 'open');
    return {
      protocol: socket.protocol,
      send: (message) => socket.send(typeof message === 'string' ? message : JSON.stringify(message)),
      async next() {
        while (received.length === 0) {
          const code = await within(Promise.race([arrived.promise, closing]));
          if (typeof code === 'number') throw new Error(`the server closed the socket with ${code}`);
        }
        const message = received.shift();
        if (received.length === 0) arrived = Promise.withResolvers();
        if (message === undefined) throw new Error('there is no message');
        return message;
      },
      closed: () => within(closing),
    };
  }

  function init(token = server.token): Message {
    return { type: 'connection_init', payload: { authorization: `Bearer ${token}` } };
  }

  async function connectAsOwner(): Promise<Peer> {
    const peer = await connect();
    peer.send(init());
    expect(await peer.next()).toEqual({ type: 'connection_ack' });
    return peer;
  }

  /** A stream whose first event is there at once and whose end never comes by itself. */
  function tail(id: string): Message {
    const query =
      'subscription ($organization: ID!) { ledgerEvents(organizationId: $organization, after: "0", filter: { types: [ORGANIZATION_CREATED] }) { position } }';
    return { type: 'subscribe', id, payload: { query, variables: { organization } } };
  }
  const FIRST_EVENT = { data: { ledgerEvents: { position: '1' } } };

  describe('the connection', () => {
    it('speaks graphql-transport-ws, also where other subprotocols are offered first', async () => {
      expect((await connect(['graphql-ws', 'graphql-transport-ws'])).protocol).toBe('graphql-transport-ws');
    });

    it('without that subprotocol is closed with 4406', async () => {
      expect(await (await connect([])).closed()).toBe(4406);
    });

    it('is acknowledged after connection_init', async () => {
      await connectAsOwner();
    });

    it.each([
      ['no JSON', 'this is no JSON'],
      ['no message', '{}'],
      ['a type that is not known', '{"type":"greet"}'],
      ['a subscribe without id', '{"type":"subscribe","payload":{"query":"{ __typename }"}}'],
      ['a subscribe without query', '{"type":"subscribe","id":"1","payload":{}}'],
      ['a connection_init whose payload is a text', '{"type":"connection_init","payload":"Bearer"}'],
    ])('with %s is closed with 4400', async (_what, text) => {
      const peer = await connect();
      peer.send(text);
      expect(await peer.closed()).toBe(4400);
    });

    it('with a second connection_init is closed with 4429, acknowledged or not', async () => {
      const acknowledged = await connectAsOwner();
      acknowledged.send(init());
      expect(await acknowledged.closed()).toBe(4429);
      const hasty = await connect();
      hasty.send(init());
      hasty.send(init());
      expect(await hasty.closed()).toBe(4429);
    });

    it('with a subscribe before the acknowledgement is closed with 4401', async () => {
      const silent = await connect();
      silent.send({ type: 'subscribe', id: '1', payload: TYPENAME });
      expect(await silent.closed()).toBe(4401);
      const hasty = await connect();
      hasty.send(init());
      hasty.send({ type: 'subscribe', id: '1', payload: TYPENAME });
      expect(await hasty.closed()).toBe(4401);
    });

    it('with credentials that are no good is closed with 4401', async () => {
      const peer = await connect();
      peer.send(init('no-such-token'));
      expect(await peer.closed()).toBe(4401);
    });

    it('answers a ping with a pong at any time, and takes a pong that it did not ask for', async () => {
      const peer = await connect();
      peer.send({ type: 'pong' });
      peer.send({ type: 'ping' });
      expect(await peer.next()).toEqual({ type: 'pong' });
      peer.send(init());
      expect(await peer.next()).toEqual({ type: 'connection_ack' });
      peer.send({ type: 'ping', payload: { at: 1 } });
      expect(await peer.next()).toEqual({ type: 'pong', payload: { at: 1 } });
    });
  });

  describe('an operation', () => {
    it('that is a query has one result, and is complete', async () => {
      const peer = await connectAsOwner();
      peer.send({ type: 'subscribe', id: 'q', payload: TYPENAME });
      expect(await peer.next()).toEqual({ type: 'next', id: 'q', payload: { data: { __typename: 'Query' } } });
      expect(await peer.next()).toEqual({ type: 'complete', id: 'q' });
    });

    it('that is chosen by operationName runs with its variables', async () => {
      const peer = await connectAsOwner();
      const query = 'query One { __typename } query Two($id: ID!) { node(id: $id) { id } }';
      peer.send({ type: 'subscribe', id: 'q', payload: { query, operationName: 'Two', variables: { id: organization } } });
      expect(await peer.next()).toEqual({ type: 'next', id: 'q', payload: { data: { node: { id: organization } } } });
    });

    it('with the id of one that runs closes the socket with 4409', async () => {
      const peer = await connectAsOwner();
      peer.send(tail('s'));
      expect(await peer.next()).toEqual({ type: 'next', id: 's', payload: FIRST_EVENT });
      peer.send({ type: 'subscribe', id: 's', payload: TYPENAME });
      expect(await peer.closed()).toBe(4409);
    });

    it('may have the id of one that is over, whoever completed it', async () => {
      const peer = await connectAsOwner();
      for (let turn = 0; turn < 5; turn++) {
        peer.send({ type: 'subscribe', id: '1', payload: TYPENAME });
        expect(await peer.next()).toMatchObject({ type: 'next', id: '1', payload: { data: { __typename: 'Query' } } });
        expect(await peer.next()).toEqual({ type: 'complete', id: '1' });
        peer.send(tail('1'));
        expect(await peer.next()).toEqual({ type: 'next', id: '1', payload: FIRST_EVENT });
        peer.send({ type: 'complete', id: '1' });
      }
    });

    it('that the client gave up before its first result leaves its id to the next, which can be ended in turn', async () => {
      const peer = await connectAsOwner();
      for (let turn = 0; turn < 5; turn++) {
        peer.send(tail('1'));
        peer.send({ type: 'complete', id: '1' });
      }
      peer.send(tail('1'));
      expect(await peer.next()).toEqual({ type: 'next', id: '1', payload: FIRST_EVENT });
      peer.send(tail('1'));
      expect(await peer.closed()).toBe(4409);
    });

    it('runs beside others, each with its own messages', async () => {
      const peer = await connectAsOwner();
      peer.send(tail('a'));
      peer.send(tail('b'));
      const messages = [await peer.next(), await peer.next()].sort((one, other) => String(one.id).localeCompare(String(other.id)));
      expect(messages).toEqual([
        { type: 'next', id: 'a', payload: FIRST_EVENT },
        { type: 'next', id: 'b', payload: FIRST_EVENT },
      ]);
    });

    it('that is not valid is told so with an error, which ends it and nothing else', async () => {
      const peer = await connectAsOwner();
      for (const query of ['{', '{ nickname }', 'query A { __typename } query B { __typename }']) {
        peer.send({ type: 'subscribe', id: '1', payload: { query } });
        expect(await peer.next()).toMatchObject({
          type: 'error',
          id: '1',
          payload: [{ message: expect.any(String) as unknown, extensions: { code: 'BAD_USER_INPUT' } }],
        });
      }
      // No complete follows an error: the next message is the answer of what is asked next.
      peer.send({ type: 'ping' });
      expect(await peer.next()).toEqual({ type: 'pong' });
    });

    it('that the client completes has no messages after that, and to complete what does not run is no fault', async () => {
      const peer = await connectAsOwner();
      peer.send(tail('s'));
      expect(await peer.next()).toEqual({ type: 'next', id: 's', payload: FIRST_EVENT });
      peer.send({ type: 'complete', id: 's' });
      peer.send({ type: 'complete', id: 'never began' });
      peer.send({ type: 'ping' });
      expect(await peer.next()).toEqual({ type: 'pong' });
    });
  });
});

async function within<T>(promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`nothing came within ${DEADLINE_MS} ms`)), DEADLINE_MS);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
