import { setTimeout as sleep } from 'node:timers/promises';

import { EventSource } from 'eventsource';
import { createClient as createSseClient } from 'graphql-sse';
import { createClient as createSocketClient } from 'graphql-ws';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import WebSocket from 'ws';

import { asAdmin } from '../support/database.ts';
import { startTestServer, type TestServer } from '../support/server.ts';
import { openCuttingProxy, type CuttingProxyOptions } from './cutting-proxy.ts';

const TAIL = `subscription Tail($organization: ID!, $after: Position) {
  ledgerEvents(organizationId: $organization, after: $after) { position id type subjectId at actorId data }
}`;
const WRITERS = 3;
const EVENTS_OF_EACH = 50;
/** An event is some 400 bytes on the line. */
const RESUMED: CuttingProxyOptions = { cuts: 20, minBytes: 1, maxBytes: 3000 };
/** Each connection carries some events, so that there is something to repeat. */
const FORGETFUL: CuttingProxyOptions = { cuts: 2, minBytes: 4000, maxBytes: 10_000 };
const RETRY_MS = 5;
const DEADLINE_MS = 20_000;

type Result = { readonly data?: Readonly<Record<string, unknown>> | null | undefined; readonly errors?: readonly unknown[] | undefined };
type Subscription = {
  readonly url: string;
  readonly token: string;
  readonly organization: string;
  /** Where to begin: asked each time that a connection is made. */
  readonly after: () => string;
  readonly onResult: (result: Result) => void;
};
/** Subscribes, and again whenever the connection is lost. Answers how to stop. */
type Client = (subscription: Subscription) => () => Promise<void>;

/** The clients write the variables anew each time that they subscribe again, so a getter is all that resuming takes. */
function resuming({ organization, after }: Subscription) {
  return {
    organization,
    get after() {
      return after();
    },
  };
}

const CLIENTS: Readonly<Record<string, Client>> = {
  'graphql-ws': (subscription) => {
    const client = createSocketClient({
      url: `${subscription.url.replace('http:', 'ws:')}/graphql`,
      webSocketImpl: WebSocket,
      connectionParams: { authorization: `Bearer ${subscription.token}` },
      retryAttempts: Infinity,
      retryWait: () => sleep(RETRY_MS),
      shouldRetry: () => true,
    });
    client.subscribe<Record<string, unknown>>(
      { query: TAIL, variables: resuming(subscription) },
      { next: subscription.onResult, error: (error) => subscription.onResult({ errors: [error] }), complete: () => undefined },
    );
    return async () => client.dispose();
  },

  'graphql-sse': (subscription) => {
    const client = createSseClient({
      url: `${subscription.url}/graphql`,
      headers: { authorization: `Bearer ${subscription.token}` },
      retryAttempts: Infinity,
      retry: () => sleep(RETRY_MS),
    });
    client.subscribe(
      { query: TAIL, variables: resuming(subscription) },
      { next: subscription.onResult, error: (error) => subscription.onResult({ errors: [error] }), complete: () => undefined },
    );
    return async () => client.dispose();
  },

  // It would connect again by itself, but to the same URL, and the answers carry no `id:` for a `Last-Event-ID`.
  eventsource: (subscription) => {
    let source: EventSource;
    let retry: NodeJS.Timeout | undefined;
    const open = (): void => {
      const url = new URL(`${subscription.url}/graphql`);
      url.searchParams.set('query', TAIL);
      url.searchParams.set('variables', JSON.stringify(resuming(subscription)));
      source = new EventSource(url, {
        fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, authorization: `Bearer ${subscription.token}` } }),
      });
      source.addEventListener('next', ({ data }) => subscription.onResult(JSON.parse(data as string) as Result));
      source.addEventListener('error', () => {
        source.close();
        retry ??= setTimeout(() => {
          retry = undefined;
          open();
        }, RETRY_MS);
      });
    };
    open();
    return async () => {
      clearTimeout(retry);
      source.close();
    };
  },
};

type Followed = { readonly delivered: readonly string[]; readonly errors: readonly unknown[]; readonly cuts: number };

describe('a client that loses its connection again and again', () => {
  let server: TestServer;
  let organization: string;
  let log: readonly string[];
  const resumed = new Map<string, Followed>();
  const forgetful = new Map<string, Followed>();

  // All of them follow the same writing.
  beforeAll(async () => {
    server = await startTestServer();
    organization = ((await server.query('{ viewer { organization { id } } }'))['viewer'] as { organization: { id: string } }).organization
      .id;
    const keys = await Promise.all(Array.from({ length: WRITERS }, (_, index) => createKey(`Writer ${index}`)));
    const start = (await positionsAfter('0')).at(-1) ?? '0';
    const written = Promise.withResolvers<string>();
    const following = Object.entries(CLIENTS).flatMap(([name, client]) => [
      follow(client, RESUMED, start, (last) => last, written.promise).then((followed) => resumed.set(name, followed)),
      follow(client, FORGETFUL, start, () => start, written.promise).then((followed) => forgetful.set(name, followed)),
    ]);
    await Promise.all(keys.map(write));
    log = await positionsAfter(start);
    written.resolve(log.at(-1) ?? start);
    await Promise.all(following);
  });
  afterAll(() => server.close());

  async function createKey(name: string) {
    const { createApiKey } = await server.query(
      'mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { ... on CreateApiKeyPayload { secret apiKey { id } } } }',
      { input: { organizationId: organization, name, type: 'SECRET' } },
    );
    const { secret, apiKey } = createApiKey as { secret: string; apiKey: { id: string } };
    return { id: apiKey.id, secret };
  }

  /** Both kinds of event: verified requests and changes of the keys. */
  async function write({ id, secret }: { readonly id: string; readonly secret: string }): Promise<void> {
    for (let event = 0; event < EVENTS_OF_EACH; event++) {
      if (event % 4 === 0) {
        await server.query(
          'mutation ($input: UpdateApiKeyInput!) { updateApiKey(input: $input) { ... on UpdateApiKeyPayload { position } } }',
          {
            input: { id, metadata: { turn: event } },
          },
        );
        continue;
      }
      const response = await fetch(`${server.url}/v1/verify`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', authorization: `Bearer ${server.token}` },
        body: JSON.stringify({ key: secret, endpoint: 'GET /v1/models' }),
      });
      const answer = (await response.json()) as { readonly valid: boolean };
      if (!answer.valid) throw new Error(`a request was refused: ${JSON.stringify(answer)}`);
    }
  }

  /** The log as the database has it. */
  function positionsAfter(start: string): Promise<readonly string[]> {
    return asAdmin(async (admin) => {
      const { rows } = await admin.query<{ position: string }>(
        'SELECT position::text FROM keyledger.ledger WHERE ledger.position > $1 ORDER BY ledger.position',
        [start],
      );
      return rows.map(({ position }) => position);
    }, server.database.name);
  }

  /** What a client is given over a bad line, from `start` until the last that was written. */
  async function follow(
    client: Client,
    line: CuttingProxyOptions,
    start: string,
    resumeAfter: (last: string) => string,
    written: Promise<string>,
  ): Promise<Followed> {
    const proxy = await openCuttingProxy(server.url, line);
    const delivered: string[] = [];
    const errors: unknown[] = [];
    const stop = client({
      url: proxy.url,
      token: server.token,
      organization,
      after: () => resumeAfter(delivered.at(-1) ?? start),
      onResult: ({ data, errors: failures }) => {
        if (failures !== undefined) errors.push(...failures);
        const event = data?.['ledgerEvents'] as { readonly position: string } | undefined;
        if (event !== undefined) delivered.push(event.position);
      },
    });
    try {
      const last = await written;
      const deadline = Date.now() + DEADLINE_MS;
      while ((delivered.at(-1) !== last || proxy.cuts() < line.cuts) && errors.length === 0 && Date.now() < deadline) await sleep(10);
      return { delivered, errors, cuts: proxy.cuts() };
    } finally {
      await stop();
      await proxy.close();
    }
  }

  describe.each(Object.keys(CLIENTS))('%s', (name) => {
    it('7.1 is given the log without loss or repetition if it resumes after the last position that it saw', () => {
      expect(log.length).toBeGreaterThanOrEqual(WRITERS * EVENTS_OF_EACH);
      expect(resumed.get(name)).toEqual({ delivered: log, errors: [], cuts: RESUMED.cuts });
    });

    it('is given events again if it forgets where it was, which the same comparison finds', () => {
      const { delivered = [], errors, cuts } = forgetful.get(name) ?? {};
      expect({ errors, cuts }).toEqual({ errors: [], cuts: FORGETFUL.cuts });
      expect(delivered).not.toEqual(log);
      expect(delivered.length).toBeGreaterThan(log.length);
    });
  });

  it('nothing went wrong in the server meanwhile', () => {
    expect(server.logged).toEqual([]);
  });
});
