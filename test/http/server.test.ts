import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';

import { AdmissionUnavailableError, type Admission } from '../../src/admission/admission.ts';
import { createHttpServer } from '../../src/http/server.ts';
import { openTestLedger, type TestLedger } from '../support/ledger.ts';
import { openDataPlane, type DataPlane, type DataPlaneOptions } from './data-plane.ts';
import { openRawConnection } from './raw-connection.ts';

let ledger: TestLedger;
const opened: DataPlane[] = [];

beforeAll(async () => {
  ledger = await openTestLedger();
});
afterEach(async () => {
  await Promise.all(opened.splice(0).map((plane) => plane.close()));
});
afterAll(() => ledger.close());

async function open(options: DataPlaneOptions = {}): Promise<DataPlane> {
  const plane = await openDataPlane({ on: ledger, ...options });
  opened.push(plane);
  return plane;
}

/** The ledger's admission with a gate in front: verifications wait until it opens. */
function gated(): { readonly admission: Admission; readonly arrived: Promise<void>; open(): void } {
  const gate = Promise.withResolvers<void>();
  const arrived = Promise.withResolvers<void>();
  return {
    arrived: arrived.promise,
    open: gate.resolve,
    admission: {
      ...ledger.admission,
      async verify(caller, request) {
        arrived.resolve();
        await gate.promise;
        return ledger.admission.verify(caller, request);
      },
    },
  };
}

function failing(error: unknown): Admission {
  return { ...ledger.admission, verify: () => Promise.reject(error), recordUsage: () => Promise.reject(error) };
}

describe('a path or method that is not there', () => {
  it.each(['/', '/v1', '/v1/verify/', '/v1/verifyx', '/V1/verify', '//v1/verify', '/graphql', '/constructor', '/__proto__'])(
    '%s is 404',
    async (path) => {
      const plane = await open();
      expect(await plane.ask(path)).toMatchObject({ status: 404, body: { error: { code: 'NOT_FOUND' } } });
    },
  );

  it.each([
    ['GET', '/v1/verify', 'POST'],
    ['DELETE', '/v1/usage', 'POST'],
    ['OPTIONS', '/v1/verify', 'POST'],
    ['POST', '/livez', 'GET, HEAD'],
    ['PUT', '/readyz', 'GET, HEAD'],
  ])('%s %s is 405 with what is allowed', async (method, path, allowed) => {
    const plane = await open();
    const { status, headers, body } = await plane.ask(path, { method });
    expect({ status, body }).toMatchObject({ status: 405, body: { error: { code: 'METHOD_NOT_ALLOWED' } } });
    expect(headers.get('allow')).toBe(allowed);
  });

  it('does not become a label of the metrics', async () => {
    const plane = await open();
    await plane.ask('/secret-path');
    const { text } = await plane.ask('/metrics');
    expect(text).toContain('keyledger_http_requests_total{route="none",status="404"} 1');
    expect(text).not.toContain('secret-path');
  });

  it('leaves the query out of what is looked up and of what is logged', async () => {
    const plane = await open({ logLevel: 'debug' });
    expect((await plane.ask('/livez?probe=sk_live_canary')).status).toBe(200);
    await expect.poll(() => plane.logged.join('')).toContain('"path":"/livez"');
    expect(plane.logged.join('')).not.toContain('sk_live_canary');
  });

  it('answers HEAD without a body', async () => {
    const plane = await open();
    const { status, headers, text } = await plane.ask('/livez', { method: 'HEAD' });
    expect({ status, text, length: headers.get('content-length') }).toEqual({ status: 200, text: '', length: '15' });
  });
});

describe('a request that breaks HTTP', () => {
  it.each([
    ['is no HTTP', 'hello\r\n\r\n', /^HTTP\/1\.1 400 .*"code":"BAD_USER_INPUT"/s],
    ['has two lengths', 'POST /v1/verify HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n', /^HTTP\/1\.1 400 /],
    [
      'has a length and chunks',
      'POST /v1/verify HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n',
      /^HTTP\/1\.1 400 /,
    ],
    ['names no host', 'GET /livez HTTP/1.1\r\n\r\n', /^HTTP\/1\.1 400 /],
    [
      'has headers above 16 KiB',
      `GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: ${'a'.repeat(20_000)}\r\n\r\n`,
      /^HTTP\/1\.1 431 .*"code":"HEADERS_TOO_LARGE"/s,
    ],
  ])('and %s is refused and cut off', async (_what, text, answered) => {
    const plane = await open();
    const raw = await openRawConnection(plane.port);
    raw.write(text);
    expect(await raw.ended()).toMatch(answered);
  });

  it('by a body that does not come is told 408 after the time for requests', async () => {
    const plane = await open({ requestTimeoutMs: 300 });
    const { secret } = await plane.newToken(['keys:verify']);
    const raw = await openRawConnection(plane.port);
    raw.write(`POST /v1/verify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${secret}\r\nContent-Length: 100\r\n\r\n{"key":`);
    expect(await raw.ended()).toMatch(/^HTTP\/1\.1 408 .*"code":"REQUEST_TIMEOUT"/s);
    expect((await plane.ask('/livez')).status).toBe(200);
  });

  it('by headers that do not come is told 408', async () => {
    const plane = await open({ requestTimeoutMs: 300 });
    const raw = await openRawConnection(plane.port);
    raw.write('POST /v1/verify HTTP/1.1\r\nHost: x\r\nX-Slow: ');
    expect(await raw.ended()).toMatch(/^HTTP\/1\.1 408 /);
  });

  it('by going away in the middle of the body leaves no error', async () => {
    const plane = await open();
    const { secret } = await plane.newToken(['keys:verify']);
    const raw = await openRawConnection(plane.port);
    raw.write(`POST /v1/verify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${secret}\r\nContent-Length: 100\r\n\r\n{"key":`);
    raw.socket.resetAndDestroy();
    await raw.ended();
    expect((await plane.ask('/livez')).status).toBe(200);
    expect(plane.logged.join('')).not.toContain('"level":50');
  });

  it('by an endless body is answered 413 and cut off', async () => {
    const plane = await open();
    const { secret } = await plane.newToken(['keys:verify']);
    const raw = await openRawConnection(plane.port);
    raw.write(`POST /v1/verify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${secret}\r\nTransfer-Encoding: chunked\r\n\r\n`);
    const chunk = `10000\r\n${'x'.repeat(65_536)}\r\n`;
    const pour = (): void => {
      while (!raw.socket.destroyed && raw.socket.write(chunk));
    };
    raw.socket.on('drain', pour);
    pour();
    expect(await raw.until('PAYLOAD_TOO_LARGE')).toMatch(/^HTTP\/1\.1 413 /);
    await raw.ended();
  });
});

describe('a failure behind the answer', () => {
  it('of the database is 503 with Retry-After', async () => {
    const plane = await open({
      admission: failing(new AdmissionUnavailableError('The database can not answer now; try again.', { retryAfterSeconds: 7 })),
    });
    const { secret } = await plane.newToken(['keys:verify']);
    const { status, headers, body } = await plane.post('/v1/verify', { key: 'x' }, { token: secret });
    expect({ status, body }).toMatchObject({ status: 503, body: { error: { code: 'SERVICE_UNAVAILABLE' } } });
    expect(headers.get('retry-after')).toBe('7');
  });

  it('of the database is logged once a second, not once a request', async () => {
    const plane = await open({ admission: failing(new AdmissionUnavailableError('gone', { retryAfterSeconds: 1 })), logLevel: 'warn' });
    const { secret } = await plane.newToken(['keys:verify']);
    for (let request = 0; request < 20; request++) await plane.post('/v1/verify', { key: 'x' }, { token: secret });
    expect(plane.logged.length).toBeGreaterThan(0);
    expect(plane.logged.length).toBeLessThan(20);
  });

  it('that nobody expected is 500 with an id that the log has, and nothing of the failure', async () => {
    const plane = await open({ admission: failing(new Error('SELECT secret FROM canary')) });
    const { secret } = await plane.newToken(['keys:verify', 'usage:write']);
    const item = { keyId: '019a9f3e-1f2b-7c3d-8e4f-5a6b7c8d9e0f', endpoint: 'GET /', status: 200, durationMs: 1 };
    for (const [path, body] of [
      ['/v1/verify', { key: 'x' }],
      ['/v1/usage', [item]],
    ] as const) {
      const answer = await plane.post(path, body, { token: secret });
      expect(answer).toMatchObject({ status: 500, body: { error: { code: 'INTERNAL_SERVER_ERROR' } } });
      expect(answer.text).not.toContain('canary');
      const id = /under ([0-9a-f-]{36})\./.exec(answer.text)?.[1] ?? 'none';
      const line = plane.logged.find((one) => one.includes(id)) ?? '';
      expect(line).toContain('canary');
      expect(line).not.toContain(secret);
    }
  });
});

describe('drain', () => {
  const ask = (secret: string) => {
    const body = '{"key":"x"}';
    return `POST /v1/verify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${secret}\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
  };

  it('lets an open request end, takes no new connection and closes idle ones', async () => {
    const gate = gated();
    const plane = await open({ admission: gate.admission });
    const { secret } = await plane.newToken(['keys:verify']);
    const idle = await openRawConnection(plane.port);
    idle.write('GET /livez HTTP/1.1\r\nHost: x\r\n\r\n');
    await idle.until('"ok"');
    const busy = await openRawConnection(plane.port);
    busy.write(ask(secret));
    await gate.arrived;
    const drained = plane.server.drain(10_000);
    await idle.ended();
    await expect(openRawConnection(plane.port)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    expect(busy.received()).toBe('');
    gate.open();
    await drained;
    expect(await busy.ended()).toMatch(/^HTTP\/1\.1 200 .*"code":"INVALID_KEY"/s);
  });

  it('answers readiness 503 on a connection that is still open', async () => {
    const gate = gated();
    const plane = await open({ admission: gate.admission });
    const { secret } = await plane.newToken(['keys:verify']);
    const busy = await openRawConnection(plane.port);
    busy.write(ask(secret));
    await gate.arrived;
    const probe = await openRawConnection(plane.port);
    probe.write('GET /readyz HTTP/1.1\r\nHost: x\r\n');
    await expect.poll(() => plane.ask('/livez').then(({ status }) => status)).toBe(200); // the probe's first half has been read by then
    const drained = plane.server.drain(10_000);
    probe.write('\r\n');
    expect(await probe.ended()).toMatch(
      /^HTTP\/1\.1 503 .*Connection: close.*"draining":\{"ok":false,"reason":"The server is stopping\."\}/is,
    );
    gate.open();
    await drained;
  });

  it('destroys what is left after the grace', async () => {
    const gate = gated();
    const plane = await open({ admission: gate.admission });
    const { secret } = await plane.newToken(['keys:verify']);
    const stuck = await openRawConnection(plane.port);
    stuck.write(ask(secret));
    await gate.arrived;
    await plane.server.drain(100);
    expect(await stuck.ended()).toBe('');
    gate.open();
  });

  it('ends sockets that were upgraded', async () => {
    const plane = await open({
      graphql: {
        handle: (_request, response) => void response.end('{}'),
        handleUpgrade: (_request, socket) =>
          void socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'),
      },
    });
    const raw = await openRawConnection(plane.port);
    raw.write('GET /graphql HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
    await raw.until('101');
    await plane.server.drain(50);
    await raw.ended();
  });
});

describe('GraphQL', () => {
  const graphql = {
    handle: async (_request: unknown, response: { writeHead(status: number): unknown; end(text: string): void }) => {
      response.writeHead(202);
      response.end('from graphql');
    },
    handleUpgrade: () => undefined,
  };

  it('gets what comes to its path, with a query as well, and is counted', async () => {
    const plane = await open({ graphql });
    expect(await plane.ask('/graphql?query={x}')).toMatchObject({ status: 202, text: 'from graphql' });
    await expect
      .poll(async () => (await plane.ask('/metrics')).text)
      .toContain('keyledger_http_requests_total{route="graphql",status="202"} 1');
  });

  it('that fails costs its own connection alone', async () => {
    const plane = await open({ graphql: { ...graphql, handle: () => Promise.reject(new Error('broken')) } });
    await expect(plane.ask('/graphql')).rejects.toThrow();
    expect((await plane.ask('/livez')).status).toBe(200);
    expect(plane.logged.join('')).toContain('the GraphQL endpoint failed');
  });

  it('gets no upgrade of another path', async () => {
    const plane = await open({ graphql });
    const raw = await openRawConnection(plane.port);
    raw.write('GET /v1/verify HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
    expect(await raw.ended()).toMatch(/^HTTP\/1\.1 404 /);
  });
});

describe('the client in the log', () => {
  async function loggedClient(trustedProxies: readonly string[], forwarded: string): Promise<unknown> {
    const plane = await open({ trustedProxies, logLevel: 'debug' });
    await plane.ask('/livez', { headers: { 'x-forwarded-for': forwarded } });
    await expect.poll(() => plane.logged.some((line) => line.includes('"answered"'))).toBe(true);
    return (JSON.parse(plane.logged.find((line) => line.includes('"answered"')) ?? '{}') as { client?: unknown }).client;
  }

  it.each([
    ['is the peer where no proxy is trusted', [], '203.0.113.7', '127.0.0.1'],
    ['is the peer where it is not one of the proxies', ['10.0.0.0/8'], '203.0.113.7', '127.0.0.1'],
    ['is what a trusted proxy saw', ['127.0.0.0/8'], '203.0.113.7', '203.0.113.7'],
    ['is not what the client itself wrote', ['127.0.0.0/8'], '198.51.100.1, 203.0.113.7', '203.0.113.7'],
    ['is found behind two proxies', ['127.0.0.0/8', '10.0.0.0/8'], '198.51.100.1, 203.0.113.7:4711, 10.1.2.3', '203.0.113.7'],
    ['is the last that can be read', ['127.0.0.0/8', '10.0.0.0/8'], 'nonsense, 10.1.2.3', '10.1.2.3'],
  ])('%s', async (_what, trusted, forwarded, client) => {
    expect(await loggedClient(trusted, forwarded)).toBe(client);
  });
});

it('rejects a port that is taken with the code of the system', async () => {
  const plane = await open();
  const second = createHttpServer({
    host: '127.0.0.1',
    port: plane.port,
    routes: [],
    graphql: null,
    logger: { isLevelEnabled: () => false } as never,
    metrics: { answered: () => undefined },
    trustedProxies: [],
  });
  await expect(second.listen()).rejects.toMatchObject({ code: 'EADDRINUSE' });
  await second.drain(0);
});

it('keeps a connection open between requests', async () => {
  const plane = await open();
  const raw = await openRawConnection(plane.port);
  raw.write('GET /livez HTTP/1.1\r\nHost: x\r\n\r\n');
  await raw.until('"ok"');
  raw.write('GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
  expect(await raw.ended()).toContain('"openapi": "3.1.0"');
});
