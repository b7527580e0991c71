import { randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createClient, type Client, type ClientOptions } from 'graphql-ws';
import { pino } from 'pino';
import WebSocket from 'ws';

import type { Admission } from '../../src/admission/admission.ts';
import { readWindows } from '../../src/admission/read-windows.ts';
import type { Role } from '../../src/domain/permissions.ts';
import { encodeGlobalId } from '../../src/graphql/global-id.ts';
import type { GraphqlLimits } from '../../src/graphql/limits.ts';
import { createGraphqlServer } from '../../src/graphql/server.ts';
import { createAuthenticate } from '../../src/identity/authenticate.ts';
import { openKeyUses } from '../../src/ledger/key-uses.ts';
import { openTail, type Tail } from '../../src/ledger/tail.ts';
import { done, openTestLedger } from '../support/ledger.ts';

export type Update = {
  readonly data?: Readonly<Record<string, unknown>> | null;
  readonly errors?: readonly {
    readonly message: string;
    readonly path?: readonly (string | number)[];
    readonly extensions?: Readonly<Record<string, unknown>>;
  }[];
};

export type Answer = {
  readonly status: number;
  readonly headers: Headers;
  readonly data: Update['data'] | undefined;
  readonly errors: NonNullable<Update['errors']>;
};

export type TestGraphql = Awaited<ReturnType<typeof openTestGraphql>>;

type Options = {
  readonly limits?: Partial<GraphqlLimits>;
  readonly keyOperationsPerHour?: number;
  readonly maxBodyBytes?: number;
  readonly allowedOrigins?: readonly string[];
  readonly webhookAllowPrivate?: readonly string[];
  /** Stands before the ledger's own. */
  readonly admission?: (admission: Admission) => Admission;
};

/** A GraphQL server on a port and a database of its own, with a tail that counts its followers. */
export async function openTestGraphql(options: Options = {}) {
  const ledger = await openTestLedger({
    keyOperationsPerHour: options.keyOperationsPerHour ?? null,
    webhookAllowPrivate: options.webhookAllowPrivate ?? [],
  });
  const counted = countFollowers(openTail({ db: ledger.db, pollMs: 20, onError: (error) => ledger.errors.push(error) }));
  const keyUses = openKeyUses({ database: ledger.database, pollMs: 20, pauseMs: 1, onError: (error) => ledger.errors.push(error) });
  const logLines: string[] = [];
  const graphql = createGraphqlServer({
    database: ledger.database,
    keys: ledger.keys,
    organizations: ledger.organizations,
    balances: ledger.balances,
    webhooks: ledger.webhooks,
    imports: ledger.imports,
    profiles: ledger.profiles,
    tokens: ledger.tokens,
    alerts: ledger.alerts,
    admission: options.admission?.(ledger.admission) ?? ledger.admission,
    windows: (numbers) => readWindows(ledger.db, numbers),
    tail: counted.tail,
    keyUses,
    authenticate: createAuthenticate({ db: ledger.db, oidc: null }),
    config: {
      allowedOrigins: options.allowedOrigins ?? [],
      maxBodyBytes: options.maxBodyBytes ?? 64 * 1024,
      graphiql: true,
      ...(options.limits === undefined ? {} : { limits: options.limits }),
    },
    logger: pino({ level: 'error' }, { write: (line: string) => void logLines.push(line) }),
  });
  const http = createServer((req, res) => {
    graphql.handle(req, res).catch((error: unknown) => ledger.errors.push(error as Error));
  });
  http.on('upgrade', (req, socket, head) => graphql.handleUpgrade(req, socket, head));
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
  const { port } = http.address() as AddressInfo;
  const url = `http://127.0.0.1:${port}/graphql`;
  const clients: Client[] = [];

  async function tokenOf(
    input: Readonly<Record<string, unknown>>,
    organizationId = ledger.organization.id,
  ): Promise<{ readonly id: string; readonly token: string }> {
    const outcome = done(await ledger.tokens.create(null, { organizationId, name: 'test', ...input }));
    if (outcome.secret === null) throw new Error('the new token has no secret');
    return { id: outcome.result.tokenId, token: outcome.secret.reveal() };
  }

  async function post(body: unknown, token: string | null, headers: Readonly<Record<string, string>> = {}): Promise<Response> {
    return fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...(token === null ? {} : { authorization: `Bearer ${token}` }), ...headers },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    });
  }

  const owner = await tokenOf({ memberId: ledger.owner.memberId });
  return {
    ledger,
    url,
    graphql,
    logLines,
    organizationId: encodeGlobalId('Organization', ledger.organization.id),
    ownerToken: owner.token,
    /** Of the log and of the uses of keys. */
    followers: () => counted.followers() + keyUses.followers(),
    /** Events that all followers together have taken from the tail. */
    pulled: counted.pulled,
    tail: counted.tail,
    tokenOf,
    post,
    /** A member of a role with a token. */
    async newMember(role: Role, organizationId = ledger.organization.id) {
      const outcome = done(await ledger.organizations.addMember({ ...ledger.owner, organizationId }, { organizationId, role }));
      const memberId = outcome.result.memberId ?? '';
      return { memberId, ...(await tokenOf({ memberId }, organizationId)) };
    },
    async query(query: string, variables: Readonly<Record<string, unknown>> = {}, token: string | null = owner.token): Promise<Answer> {
      const response = await post({ query, variables }, token);
      const body = (await response.json()) as Update;
      return { status: response.status, headers: response.headers, data: body.data, errors: body.errors ?? [] };
    },
    socketClient(token: string | null = owner.token, clientOptions: Partial<ClientOptions> = {}): Client {
      const client = createClient({
        url: url.replace('http:', 'ws:'),
        webSocketImpl: WebSocket,
        lazy: false,
        retryAttempts: 0,
        onNonLazyError: () => undefined,
        ...(token === null ? {} : { connectionParams: { authorization: `Bearer ${token}` } }),
        ...clientOptions,
      });
      clients.push(client);
      return client;
    },
    /** Server-sent events of a subscription: each `next`'s payload. */
    events: (query: string, variables: Readonly<Record<string, unknown>>, signal: AbortSignal, token = owner.token) =>
      readEvents(url, { query, variables }, token, signal),
    async close() {
      for (const client of clients) await client.dispose();
      await graphql.close();
      await new Promise<void>((resolve) => {
        http.close(() => resolve());
        http.closeAllConnections();
      });
      await counted.tail.close();
      await keyUses.close();
      await ledger.close();
    },
  };
}

async function* readEvents(url: string, body: unknown, token: string, signal: AbortSignal): AsyncGenerator<Update, void, undefined> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'text/event-stream', authorization: `Bearer ${token}` },
    body: JSON.stringify(body),
    signal,
  });
  if (response.body === null) return;
  let text = '';
  for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    for (let end = text.indexOf('\n\n'); end !== -1; end = text.indexOf('\n\n')) {
      const message = text.slice(0, end);
      text = text.slice(end + 2);
      const data = /^data: ?(.+)$/m.exec(message)?.[1];
      if (message.includes('event: next') && data !== undefined) yield JSON.parse(data) as Update;
      if (message.includes('event: complete')) return;
    }
  }
}

function countFollowers(tail: Tail): { readonly tail: Tail; readonly followers: () => number; readonly pulled: () => number } {
  let count = 0;
  let pulled = 0;
  return {
    followers: () => count,
    pulled: () => pulled,
    tail: {
      ...tail,
      follow: (options) => {
        const pages = tail.follow(options);
        let counted = true;
        count++;
        const leave = (): void => {
          if (counted) count--;
          counted = false;
        };
        return {
          async next() {
            const page = await pages.next();
            if (page.done === true) leave();
            else pulled += page.value.entries.length;
            return page;
          },
          async return() {
            leave();
            return pages.return();
          },
          async throw(error) {
            leave();
            return pages.throw(error);
          },
          [Symbol.asyncIterator]() {
            return this;
          },
          async [Symbol.asyncDispose]() {
            leave();
            await pages.return();
          },
        };
      },
    },
  };
}

/** Waits until a condition holds; fails after a deadline and says what was waited for. */
export async function eventually(what: string, holds: () => boolean | Promise<boolean>, withinMs = 5000): Promise<void> {
  const deadline = Date.now() + withinMs;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`waited ${withinMs} ms in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

export function randomName(): string {
  return `key ${randomBytes(6).toString('hex')}`;
}
