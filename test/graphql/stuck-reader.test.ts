import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { at, textAt } from './at.ts';
import { openSocket } from './bare-socket.ts';
import { CONTRACT } from './contract-documents.ts';
import { eventually, openTestGraphql, type TestGraphql } from './graphql-server.ts';

const EVENTS = 10_000;
const QUIET_MS = 400;

/** Appends events of 3 kB in one statement: more together than all the buffers of a connection hold. */
async function flood(server: TestGraphql): Promise<void> {
  const { id } = server.ledger.organization;
  await server.ledger.database.pool.query(
    `SELECT append('system', array_fill($1::uuid, ARRAY[$4::integer]), array_fill($2::text, ARRAY[$4::integer]), ARRAY(SELECT g FROM generate_series(100, 99 + $4::integer) g),
       array_fill('OrganizationRenamed'::text, ARRAY[$4::integer]), array_fill(1::smallint, ARRAY[$4::integer]), array_fill($3::text, ARRAY[$4::integer]), NULL)`,
    [id, `organization:${id}`, JSON.stringify({ name: 'x'.repeat(3000) }), EVENTS],
  );
}

/** Waits until no more of the log is pulled, and says how many events were. */
async function pulledUntilQuiet(server: TestGraphql, from: number): Promise<number> {
  let seen = -1;
  await eventually(
    'nothing more is pulled',
    async () => {
      const before = server.pulled() - from;
      await new Promise((resolve) => setTimeout(resolve, QUIET_MS));
      seen = server.pulled() - from;
      return seen === before && seen > 0;
    },
    20_000,
  );
  return seen;
}

async function overWebSocket(server: TestGraphql) {
  const state = await openSocket(server, server.ownerToken);
  const payload = { query: CONTRACT.Tail, variables: { organization: server.organizationId } };
  state.socket.send(JSON.stringify({ id: '1', type: 'subscribe', payload }));
  await eventually('the stream follows', () => server.followers() === 2);
  await server.ledger.newKey();
  await eventually('the first event came', () => state.messages.some((message) => message.type === 'next'));
  return state;
}

describe('a reader that is stuck', () => {
  let server: TestGraphql;
  beforeAll(async () => {
    server = await openTestGraphql();
  });
  afterAll(() => server.close());

  const gone = () => eventually('nothing is left', () => server.followers() === 0 && server.graphql.subscriptions() === 0);

  it('stops its stream over WebSocket, so that it costs no memory, and misses nothing when it goes on', async () => {
    const state = await overWebSocket(server);
    state.socket.pause();
    const from = server.pulled();
    await flood(server);
    expect(await pulledUntilQuiet(server, from)).toBeLessThan(EVENTS);
    state.socket.resume();
    await eventually('the rest came', () => state.messages.length > EVENTS, 20_000);
    const positions = state.messages
      .filter((message) => message.type === 'next')
      .map((message) => Number(textAt(message, 'payload.data.ledgerEvents.position')));
    expect(positions).toEqual(positions.map((_, index) => (positions[0] ?? 0) + index));
    state.socket.terminate();
    await gone();
  });

  it('stops its stream over SSE, and leaves nothing behind when it goes', async () => {
    const sse = connect(Number(new URL(server.url).port), '127.0.0.1');
    const body = JSON.stringify({ query: CONTRACT.Tail, variables: { organization: server.organizationId, after: '0' } });
    const head = `POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAccept: text/event-stream\r\nAuthorization: Bearer ${server.ownerToken}`;
    const from = server.pulled();
    sse.write(`${head}\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
    sse.once('data', () => sse.pause());
    await eventually('the stream follows', () => server.graphql.subscriptions() === 1);
    expect(await pulledUntilQuiet(server, from)).toBeLessThan(EVENTS);
    sse.destroy();
    await gone();
  });

  it('is why it stops: a reader that reads pulls all of it', async () => {
    const from = server.pulled();
    const abort = new AbortController();
    for await (const _ of server.events(CONTRACT.Tail, { organization: server.organizationId, after: '0' }, abort.signal)) {
      if (server.pulled() - from > EVENTS) break;
    }
    abort.abort();
    await gone();
  });

  it('and falls too far behind is told where to resume', async () => {
    const strict = await openTestGraphql({ limits: { maxLagEvents: 200 } });
    const state = await overWebSocket(strict);
    state.socket.pause();
    await flood(strict);
    state.socket.resume();
    await eventually('the stream ended', () => state.messages.some((message) => message.type === 'complete'), 20_000);
    const updates = state.messages.filter((message) => message.type === 'next');
    expect(at(updates.at(-1), 'payload.errors.0.extensions')).toEqual({
      code: 'SUBSCRIPTION_LAGGED',
      resumeAfter: textAt(updates.at(-2), 'payload.data.ledgerEvents.position'),
    });
    state.socket.terminate();
    await strict.close();
  });
});
