import { setTimeout as sleep } from 'node:timers/promises';

import { buildSchema, type ExecutionResult } from 'graphql';
import { makeServer } from 'graphql-ws';
import { expect, it } from 'vitest';

import { cancellable } from '../../src/lib/cancellable.ts';
import { freeIdsInOrder } from '../../src/graphql/operation-ids.ts';
import { eventually } from './graphql-server.ts';

type Take = (text: string) => Promise<void>;
type Message = { readonly type: string; readonly id?: string; readonly payload?: unknown };

const ENDS_AFTER_MS = 20;
const SCHEMA = buildSchema('type Query { name: String } type Subscription { name(is: String!): String! }');

/** A peer of graphql-ws' own server, whose streams tell their name, wait, and need some time to end. `between` stands before what takes the peer's messages. */
async function connect(between: (take: Take) => Take) {
  const open: string[] = [];
  const messages: Message[] = [];
  let take: Take = () => Promise.reject(new Error('the server does not listen'));

  function stream(name: string): AsyncGenerator<ExecutionResult, void, undefined> {
    return cancellable(async function* (signal) {
      open.push(name);
      try {
        yield { data: { name } };
        await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
        await sleep(ENDS_AFTER_MS);
      } finally {
        open.splice(open.indexOf(name), 1);
      }
    }, undefined);
  }

  const server = makeServer({
    schema: SCHEMA,
    subscribe: ({ variableValues }) => stream(String(variableValues?.['is'])),
  });
  const closed = server.opened(
    {
      protocol: 'graphql-transport-ws',
      send: (text) => void messages.push(JSON.parse(text) as Message),
      close: (code) => void messages.push({ type: `closed with ${code}` }),
      onMessage: (callback) => {
        take = between(callback);
      },
    },
    {},
  );
  const send = (message: Message): void => {
    take(JSON.stringify(message)).catch((error: unknown) => messages.push({ type: String(error) }));
  };
  send({ type: 'connection_init' });
  await eventually('the server acknowledges', () => messages.length === 1);
  return {
    open,
    /** Without the acknowledgement. */
    told: () => messages.slice(1),
    subscribe: (is: string) =>
      send({ type: 'subscribe', id: '1', payload: { query: 'subscription ($is: String!) { name(is: $is) }', variables: { is } } }),
    complete: () => send({ type: 'complete', id: '1' }),
    leave: async () => closed(1000, 'Done'),
  };
}

const first = { type: 'next', id: '1', payload: { data: { name: 'first' } } };
const second = { type: 'next', id: '1', payload: { data: { name: 'second' } } };

it('an id that its client has completed is that of the next operation, which lives until it is completed itself', async () => {
  const peer = await connect(freeIdsInOrder);
  peer.subscribe('first');
  await eventually('the first tells its name', () => peer.told().length === 1);
  peer.complete();
  peer.subscribe('second');
  await eventually('the second tells its name', () => peer.told().length === 2);
  await sleep(2 * ENDS_AFTER_MS);
  expect(peer.told()).toEqual([first, second]);
  expect(peer.open).toEqual(['second']);
  peer.complete();
  await eventually('the second ended', () => peer.open.length === 0);
  expect(peer.told()).toEqual([first, second]);
  await peer.leave();
});

it('a completion while the next operation still waits for the id is that of the next', async () => {
  const peer = await connect(freeIdsInOrder);
  peer.subscribe('first');
  await eventually('the first tells its name', () => peer.told().length === 1);
  peer.complete();
  peer.subscribe('second');
  peer.complete();
  await sleep(4 * ENDS_AFTER_MS);
  await eventually('both ended', () => peer.open.length === 0);
  peer.subscribe('third');
  await eventually('the third lives', () => peer.open.includes('third'));
  peer.subscribe('fourth');
  await eventually('the id is taken', () => peer.told().some(({ type }) => type === 'closed with 4409'));
  await peer.leave();
});

it("by itself graphql-ws' server tells the next operation that it is complete, and can not end it any more", async () => {
  const peer = await connect((take) => take);
  peer.subscribe('first');
  await eventually('the first tells its name', () => peer.told().length === 1);
  peer.complete();
  peer.subscribe('second');
  await eventually('the second is told to be complete', () => peer.told().some(({ type }) => type === 'complete'));
  peer.complete();
  await sleep(4 * ENDS_AFTER_MS);
  expect(peer.open).toEqual(['second']);
  await peer.leave();
});
