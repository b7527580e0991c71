import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { encodeGlobalId } from '../../src/graphql/global-id.ts';
import { done } from '../support/ledger.ts';
import { at, textAt } from './at.ts';
import { CONTRACT } from './contract-documents.ts';
import { openSocket } from './bare-socket.ts';
import { eventually, openTestGraphql, randomName, type TestGraphql, type Update } from './graphql-server.ts';

describe('subscriptions', () => {
  let server: TestGraphql;
  beforeAll(async () => {
    server = await openTestGraphql();
  });
  afterAll(() => server.close());

  const createKey = () => server.ledger.newKey({ name: randomName() });
  const variables = () => ({ organization: server.organizationId });

  async function nextOf<T>(iterator: AsyncIterator<T, unknown>): Promise<T> {
    const result = await Promise.race([iterator.next(), sleep(5000, 'late' as const)]);
    if (result === 'late' || result.done === true) throw new Error('the stream gave nothing');
    return result.value;
  }

  for (const transport of ['WebSocket', 'SSE'] as const) {
    const open = (query: string, vars: Readonly<Record<string, unknown>>, token = server.ownerToken) => {
      const abort = new AbortController();
      const client = transport === 'WebSocket' ? server.socketClient(token) : null;
      const iterator = (client?.iterate({ query, variables: vars }) ?? server.events(query, vars, abort.signal, token)) as AsyncIterator<
        Update,
        unknown
      >;
      return {
        next: () => nextOf(iterator),
        end: async () => {
          abort.abort();
          if (client === null) return;
          await iterator.return?.();
          await client.dispose();
        },
      };
    };

    it(`apiKeyChanged tells changes as they happen, over ${transport}`, async () => {
      const stream = open(CONTRACT.Changed, { ...variables(), after: String((await createKey()).position) });
      const { keyId, position } = await createKey();
      const first = await stream.next();
      expect(first.data?.['apiKeyChanged']).toMatchObject({
        position: String(position),
        type: 'KEY_CREATED',
        apiKey: { keyId, status: 'ACTIVE' },
      });
      done(await server.ledger.keys.deactivate(server.ledger.owner, { id: keyId }));
      expect((await stream.next()).data?.['apiKeyChanged']).toMatchObject({ type: 'DEACTIVATED', apiKey: { keyId, status: 'INACTIVE' } });
      await stream.end();
      await eventually('the follower left', () => server.followers() === 0 && server.graphql.subscriptions() === 0);
    });

    it(`ledgerEvents after 0 is the whole history, over ${transport}`, async () => {
      const stream = open(CONTRACT.Tail, { ...variables(), after: '0' });
      expect((await stream.next()).data?.['ledgerEvents']).toMatchObject({
        position: '1',
        type: 'ORGANIZATION_CREATED',
        subjectId: server.organizationId,
      });
      expect((await stream.next()).data?.['ledgerEvents']).toMatchObject({ position: '2', type: 'MEMBER_ADDED' });
      await stream.end();
      await eventually('the follower left', () => server.followers() === 0);
    });

    it(`keyUsed counts the uses of a second together, over ${transport}`, async () => {
      const { keyId, secret } = await createKey();
      const stream = open(CONTRACT.LastUsed, { ...variables(), keyIds: [encodeGlobalId('ApiKey', keyId)] });
      const firstUse = stream.next();
      await eventually('the stream follows', () => server.followers() === 2);
      await sleep(50); // the tail asks the database where the log ends
      await server.ledger.verify(secret);
      const first = at(await firstUse, 'data.keyUsed');
      expect(first).toMatchObject({ requests: 1, apiKey: { id: encodeGlobalId('ApiKey', keyId) } });
      expect(at(first, 'apiKey.lastUsedAt')).toBe(textAt(first, 'lastUsedAt'));
      const from = performance.now();
      await Promise.all(Array.from({ length: 5 }, () => server.ledger.verify(secret)));
      expect(at(await stream.next(), 'data.keyUsed.requests')).toBe(5);
      expect(performance.now() - from).toBeGreaterThan(500);
      await stream.end();
      await eventually('the follower left', () => server.followers() === 0);
    });

    it(`7.1 what random disconnects leave, put together, is the log slice, over ${transport}`, async () => {
      const { keyId: id, position: start } = await createKey();
      let writing = true;
      const writer = (async () => {
        for (let i = 0; i < 60; i++) done(await server.ledger.keys[i % 2 === 0 ? 'deactivate' : 'activate'](server.ledger.owner, { id }));
        writing = false;
      })();
      const seen: string[] = [];
      let after = String(start);
      const query =
        'subscription ($organization: ID!, $after: Position) { ledgerEvents(organizationId: $organization, after: $after, filter: { types: [ACTIVATED, DEACTIVATED] }) { position } }';
      while (writing || seen.length < 60) {
        const stream = open(query, { ...variables(), after });
        for (let taken = Math.ceil(Math.random() * 9); taken > 0 && seen.length < 60; taken--) {
          after = textAt(await stream.next(), 'data.ledgerEvents.position');
          seen.push(after);
        }
        await stream.end();
      }
      await writer;
      const { rows } = await server.ledger.database.pool.query<{ position: bigint }>(
        "SELECT position FROM events WHERE type IN ('Activated', 'Deactivated') AND position > $1 ORDER BY position LIMIT 60",
        [start],
      );
      expect(seen).toEqual(rows.map((row) => String(row.position)));
      await eventually('every follower left', () => server.followers() === 0);
    });

    it(`a revoked token ends the stream, over ${transport}`, async () => {
      const { id, token } = await server.tokenOf({ memberId: server.ledger.owner.memberId });
      const closes: unknown[] = [];
      if (transport === 'SSE') {
        const stream = open(CONTRACT.Changed, variables(), token);
        const last = stream.next();
        await eventually('the stream follows', () => server.followers() === 2);
        done(await server.ledger.tokens.revoke(server.ledger.owner, { id }));
        expect((await last).errors?.[0]?.extensions?.['code']).toBe('FORBIDDEN');
      } else {
        const client = server.socketClient(token, { on: { closed: (event) => void closes.push((event as CloseEvent).code) } });
        const stream = client.iterate({ query: CONTRACT.Changed, variables: variables() });
        const last = stream.next().catch(() => undefined);
        await eventually('the stream follows', () => server.followers() === 2);
        done(await server.ledger.tokens.revoke(server.ledger.owner, { id }));
        await last;
        await eventually('the socket is closed', () => closes.length > 0);
        expect(closes[0]).toBe(4403);
      }
      await eventually('the follower left', () => server.followers() === 0);
    });

    it(`a member who is removed, or whose role changes, is disconnected, over ${transport}`, async () => {
      for (const act of ['remove', 'change'] as const) {
        const { memberId, token } = await server.newMember('ADMIN');
        const stream = open(CONTRACT.Changed, variables(), token);
        const last = stream
          .next()
          .catch((error: unknown) => ({ errors: [{ extensions: { code: String((error as { code?: number }).code) } }] }));
        await eventually('the stream follows', () => server.followers() === 2);
        if (act === 'remove') done(await server.ledger.organizations.removeMember(server.ledger.owner, { id: memberId }));
        else done(await server.ledger.organizations.changeMemberRole(server.ledger.owner, { id: memberId, role: 'MEMBER' }));
        expect((await last).errors?.[0]?.extensions?.['code']).toBe(transport === 'SSE' ? 'FORBIDDEN' : '4403');
        await eventually('the follower left', () => server.followers() === 0);
      }
    });

    it(`a token that expires ends the stream, over ${transport}`, async () => {
      const { token } = await server.tokenOf({ memberId: server.ledger.owner.memberId, expiresAt: new Date(Date.now() + 2000) });
      const stream = open(CONTRACT.Changed, variables(), token);
      const last = await stream
        .next()
        .catch((error: unknown) => ({ errors: [{ extensions: { code: String((error as { code?: number }).code) } }] }));
      expect(last.errors?.[0]?.extensions?.['code']).toBe(transport === 'SSE' ? 'UNAUTHENTICATED' : '4401');
      await eventually('the follower left', () => server.followers() === 0);
    });
  }

  it('a member sees team keys and its own, nobody else sees a personal key, but who manages keys does', async () => {
    const one = await server.newMember('MEMBER');
    const other = await server.newMember('MEMBER');
    const asOne = { ...server.ledger.owner, id: `member:${one.memberId}`, memberId: one.memberId };
    const after = String((await createKey()).position);
    const personal = done(
      await server.ledger.keys.create(asOne, {
        organizationId: server.ledger.organization.id,
        type: 'SECRET',
        name: randomName(),
        personal: true,
      }),
    );
    const team = await createKey();
    const firstOf = async (token: string) => {
      const client = server.socketClient(token);
      const event = await nextOf(
        client.iterate<{ apiKeyChanged: { apiKey: { keyId: string } } }>({ query: CONTRACT.Changed, variables: { ...variables(), after } }),
      );
      await client.dispose();
      return event.data?.apiKeyChanged.apiKey.keyId;
    };
    expect(await firstOf(one.token)).toBe(personal.result.keyId);
    expect(await firstOf(other.token)).toBe(team.keyId);
    expect(await firstOf(server.ownerToken)).toBe(personal.result.keyId);
  });

  it("a member is not told of the use of another's personal key", async () => {
    const watcher = await server.newMember('MEMBER');
    const other = await server.newMember('MEMBER');
    const asOther = { ...server.ledger.owner, id: `member:${other.memberId}`, memberId: other.memberId };
    const personal = await server.ledger.newKey({ personal: true }, asOther);
    const team = await createKey();
    const first = async (token: string) => {
      const client = server.socketClient(token);
      const event = nextOf(client.iterate({ query: CONTRACT.LastUsed, variables: variables() }));
      await eventually('the stream follows', () => server.followers() === 2);
      await sleep(50); // the tail asks the database where the log ends
      await server.ledger.verify(personal.secret);
      await server.ledger.verify(team.secret);
      const id = textAt(await event, 'data.keyUsed.apiKey.id');
      await client.dispose();
      await eventually('the follower left', () => server.followers() === 0);
      return id;
    };
    expect(await first(watcher.token)).toBe(encodeGlobalId('ApiKey', team.keyId));
    expect(await first(other.token)).toBe(encodeGlobalId('ApiKey', personal.keyId));
  });

  describe('a quiet stream leaves nothing behind', () => {
    const quiet = async (server_: TestGraphql) => {
      await eventually('the stream follows', () => server_.followers() === 2);
      expect(server_.graphql.subscriptions()).toBe(1);
    };
    const gone = () => eventually('nothing is left', () => server.followers() === 0 && server.graphql.subscriptions() === 0);

    it('when the client completes it', async () => {
      const client = server.socketClient();
      const iterator = client.iterate({ query: CONTRACT.Changed, variables: variables() });
      void iterator.next();
      await quiet(server);
      await iterator.return?.();
      // The socket's own watch for revocations stays with the socket.
      await eventually('the stream ended', () => server.graphql.subscriptions() === 0 && server.followers() === 1);
      await client.dispose();
      await gone();
    });

    it('when the socket is cut', async () => {
      const { socket } = await openSocket(server, server.ownerToken);
      socket.send(JSON.stringify({ id: '1', type: 'subscribe', payload: { query: CONTRACT.Changed, variables: variables() } }));
      await quiet(server);
      socket.terminate();
      await gone();
    });

    it('when the SSE request is aborted', async () => {
      const abort = new AbortController();
      const iterator = server.events(CONTRACT.Changed, variables(), abort.signal);
      const next = iterator.next().catch(() => undefined);
      await quiet(server);
      abort.abort();
      await next;
      await gone();
    });
  });
});
