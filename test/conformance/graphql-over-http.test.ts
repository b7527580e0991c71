import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

import { auditServer, serverAudits } from 'graphql-http';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { startTestServer, type TestServer } from '../support/server.ts';

/** The audits need no server to be listed. */
const AUDITS = serverAudits({ url: 'http://127.0.0.1' }).map(({ id, name }) => ({ id, name }));

describe("graphql-http's audits of a server", () => {
  let server: TestServer;
  beforeAll(async () => {
    server = await startTestServer();
  });
  afterAll(() => server.close());

  function auditOf(id: string) {
    const audits = serverAudits({ url: `${server.url}/graphql`, fetchFn: withToken(server.token) });
    const audit = audits.find((candidate) => candidate.id === id);
    if (audit === undefined) throw new Error(`there is no audit ${id}`);
    return audit;
  }

  it('are at least those of the release that this was written against', () => {
    expect(AUDITS.length).toBeGreaterThanOrEqual(61);
  });

  it.each(AUDITS)('$id $name', async ({ id }) => {
    expect(await auditOf(id).fn()).toMatchObject({ id, status: 'ok' });
  });
});

it('a server that answers everything with 200 and nothing is found out', async () => {
  const http = createServer((_request, response) => response.writeHead(200, { 'content-type': 'text/plain' }).end());
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
  try {
    const results = await auditServer({ url: `http://127.0.0.1:${(http.address() as AddressInfo).port}/graphql` });
    const failed = (level: string) => results.filter(({ name, status }) => name.startsWith(level) && status !== 'ok').length;
    expect([failed('MUST'), failed('SHOULD'), failed('MAY')].every((count) => count > 0)).toBe(true);
  } finally {
    http.closeAllConnections();
    await new Promise((resolve) => http.close(resolve));
  }
});

/** `fetch` as the audits use it, with an owner's credentials. */
function withToken(token: string): typeof fetch {
  return (input, init) => {
    const headers = new Headers(init?.headers);
    headers.set('authorization', `Bearer ${token}`);
    return fetch(input, { ...init, headers });
  };
}
