import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';

import type { Admission } from '../../src/admission/admission.ts';
import { answer } from '../../src/http/answer.ts';
import { createPlainConnections, type PlainConnections } from '../../src/http/plain-connections.ts';
import { openTestLedger, type TestLedger } from '../support/ledger.ts';
import { openDataPlane, type DataPlane, type DataPlaneOptions } from './data-plane.ts';
import { openRawConnection, type RawConnection } from './raw-connection.ts';

let ledger: TestLedger;
let secret: string;
const opened: DataPlane[] = [];

beforeAll(async () => {
  ledger = await openTestLedger();
  const key = await ledger.newKey({ quotas: { daily: 1_000_000 }, limits: { requestsPerMinute: 1_000_000 }, metadata: { team: 'rød' } });
  secret = key.secret;
});
afterEach(async () => {
  await Promise.all(opened.splice(0).map((plane) => plane.close()));
});
afterAll(() => ledger.close());

async function open(options: DataPlaneOptions = {}): Promise<DataPlane & { readonly token: string }> {
  const plane = await openDataPlane({ on: ledger, ...options });
  opened.push(plane);
  const { secret: token } = await plane.newToken(['keys:verify']);
  return Object.assign(plane, { token });
}

/** The ledger's admission with a gate in front: verifications wait until it opens. */
function gated() {
  const gate = Promise.withResolvers<void>();
  const arrived = Promise.withResolvers<void>();
  const decided = Promise.withResolvers<void>();
  const admission: Admission = {
    ...ledger.admission,
    async verify(caller, request) {
      arrived.resolve();
      await gate.promise;
      return ledger.admission.verify(caller, request).finally(decided.resolve);
    },
  };
  return { admission, arrived: arrived.promise, decided: decided.promise, open: gate.resolve };
}

type Asked = { readonly token?: string | null; readonly target?: string; readonly fields?: readonly string[]; readonly body?: string };

function ask(token: string, { target = '/v1/verify', fields = [], body = JSON.stringify({ key: secret }), ...given }: Asked = {}): string {
  const credential = given.token === undefined ? token : given.token;
  const lines = [
    'Host: x',
    ...(credential === null ? [] : [`Authorization: Bearer ${credential}`]),
    `Content-Length: ${Buffer.byteLength(body)}`,
    ...fields,
  ];
  return `POST ${target} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n${body}`;
}

/** Counts the requests that node:http reads meanwhile. */
async function readByNode(work: () => Promise<void>): Promise<number> {
  let count = 0;
  const onRequest = (): void => void count++;
  subscribe('http.server.request.start', onRequest);
  try {
    await work();
  } finally {
    unsubscribe('http.server.request.start', onRequest);
  }
  return count;
}

/** Waits until so many answers have come. */
async function answers(raw: RawConnection, count: number): Promise<readonly string[]> {
  await expect.poll(() => whole(raw.received()).length, { timeout: 10_000 }).toBe(count);
  return whole(raw.received());
}

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

function heapUsed(): number {
  collectGarbage();
  return process.memoryUsage().heapUsed;
}

/** Splits what came into answers; the last one may be in the making. */
function whole(received: string): readonly string[] {
  const found: string[] = [];
  let rest = Buffer.from(received);
  for (;;) {
    const end = rest.indexOf('\r\n\r\n');
    if (end === -1) return found;
    const length = Number(/content-length: (\d+)/i.exec(rest.toString('utf8', 0, end))?.[1]);
    if (rest.length < end + 4 + length) return found;
    found.push(rest.toString('utf8', 0, end + 4 + length));
    rest = rest.subarray(end + 4 + length);
  }
}

/** Without what is another each time. */
function comparable(text: string): string {
  return text
    .replace(/"requestId":"[^"]+"/, '"requestId":"…"')
    .replace(/"position":"\d+"/, '"position":"…"')
    .replaceAll(/remaining(":|: )\d+/gi, 'remaining$1…')
    .replaceAll(/r=\d+/g, 'r=…')
    .replaceAll(/t=\d+/g, 't=…')
    .replaceAll(/reset(":|: )\d+/gi, 'reset$1…')
    .replace(/Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT/, 'Date: …')
    .replace(/content-length: \d+/, 'content-length: …');
}

describe('a plain connection', () => {
  it.each<[string, Asked]>([
    ['that passes', {}],
    ['of a key that is none', { body: '{"key":"sk_live_none"}' }],
    ['without a credential', { token: null }],
    ['with a credential that nobody has', { token: 'kl_nobody' }],
    ['with a body that is no JSON', { body: 'key' }],
    ['with a body of another form', { body: '{"key":1,"oddity":"é"}' }],
    ['with no body', { body: '' }],
    ['of another type', { fields: ['Content-Type: text/plain'] }],
    ['in another encoding', { fields: ['Content-Type: application/json; charset=latin1'] }],
    ['that says that it keeps its connection', { fields: ['Connection: keep-alive'] }],
  ])('answers a request %s as node:http does', async (_what, asked) => {
    const plane = await open();
    const plain = await openRawConnection(plane.port);
    const node = await openRawConnection(plane.port);
    const read = await readByNode(async () => {
      plain.write(ask(plane.token, asked));
      await answers(plain, 1);
    });
    expect(read).toBe(0);
    // A query is no part of the path, and only a bare path is plain.
    const readWithQuery = await readByNode(async () => {
      node.write(ask(plane.token, { ...asked, target: '/v1/verify?whole' }));
      await answers(node, 1);
    });
    expect(readWithQuery).toBe(1);
    const [one = ''] = await answers(plain, 1);
    expect(one).toMatch(/^HTTP\/1\.1 \d{3} .*\r\nDate: .*\r\nConnection: keep-alive\r\nKeep-Alive: timeout=65\r\n\r\n\{.*\}$/s);
    expect(comparable(one)).toBe(comparable((await answers(node, 1))[0] ?? ''));
    plain.socket.destroy();
    node.socket.destroy();
  });

  it('answers one request after the other, and counts them', async () => {
    const plane = await open();
    const raw = await openRawConnection(plane.port);
    const read = await readByNode(async () => {
      for (let count = 1; count <= 20; count++) {
        raw.write(ask(plane.token));
        await answers(raw, count);
      }
    });
    expect(read).toBe(0);
    expect((await plane.ask('/metrics')).text).toContain('keyledger_http_requests_total{route="verify",status="200"} 20');
    raw.socket.destroy();
  });

  it('becomes node:http’s with the first request of another kind, and stays that', async () => {
    const plane = await open();
    const raw = await openRawConnection(plane.port);
    const read = await readByNode(async () => {
      raw.write(ask(plane.token));
      await answers(raw, 1);
      raw.write('GET /livez HTTP/1.1\r\nHost: x\r\n\r\n');
      await answers(raw, 2);
      raw.write(ask(plane.token));
      await answers(raw, 3);
    });
    expect(read).toBe(2);
    const codes = whole(raw.received()).map((one) => /"code":"\w+"|"status":"ok"/.exec(one)?.[0]);
    expect(codes).toEqual(['"code":"VALID"', '"status":"ok"', '"code":"VALID"']);
    raw.socket.destroy();
  });

  it('answers a request wherever it is cut in two', async () => {
    const plane = await open();
    const text = ask(plane.token);
    for (let place = 1; place < text.length; place += 7) {
      const raw = await openRawConnection(plane.port);
      raw.socket.setNoDelay();
      raw.write(text.slice(0, place));
      await new Promise((resolve) => setTimeout(resolve, 10));
      raw.write(text.slice(place));
      expect((await answers(raw, 1))[0]).toContain('"code":"VALID"');
      raw.socket.destroy();
    }
  });

  it.each([
    ['in one piece', false],
    ['in two', true],
  ])('answers pipelined requests in their order, %s', async (_what, apart) => {
    const plane = await open();
    const raw = await openRawConnection(plane.port);
    const bodies = ['{"key":"sk_live_none"}', JSON.stringify({ key: secret }), '{', JSON.stringify({ key: secret })];
    const [first = '', ...others] = bodies.map((body) => ask(plane.token, { body }));
    if (apart) {
      raw.write(first);
      await new Promise((resolve) => setTimeout(resolve, 1));
      raw.write(others.join(''));
    } else raw.write(first + others.join(''));
    const codes = (await answers(raw, 4)).map((one) => /"code":"(\w+)"/.exec(one)?.[1]);
    expect(codes).toEqual(['INVALID_KEY', 'VALID', 'BAD_USER_INPUT', 'VALID']);
    raw.socket.destroy();
  });

  it('answers what comes while an answer is awaited after it', async () => {
    const gate = gated();
    const plane = await open({ admission: gate.admission });
    const raw = await openRawConnection(plane.port);
    raw.write(ask(plane.token));
    await gate.arrived;
    raw.write('GET /livez HTTP/1.1\r\nHost: x\r\n');
    await plane.ask('/livez');
    raw.write('\r\n');
    await plane.ask('/livez');
    expect(raw.received()).toBe('');
    gate.open();
    const told = await answers(raw, 2);
    expect(told[0]).toContain('"code":"VALID"');
    expect(told[1]).toContain('"status":"ok"');
    raw.socket.destroy();
  });

  it('tells a client that sends no more', async () => {
    const plane = await open();
    const raw = await openRawConnection(plane.port);
    raw.socket.end(ask(plane.token));
    expect(await raw.ended()).toMatch(/\r\nConnection: close\r\n\r\n.*"code":"VALID"/s);
  });

  it('is gone without a word where its client is', async () => {
    const gate = gated();
    const plane = await open({ admission: gate.admission });
    const raw = await openRawConnection(plane.port);
    raw.write(ask(plane.token));
    await gate.arrived;
    raw.socket.resetAndDestroy();
    await raw.ended();
    gate.open();
    await gate.decided;
    expect((await plane.ask('/livez')).status).toBe(200);
    expect(plane.logged).toEqual([]);
  });

  it('refuses without a credential before the body has come', async () => {
    const plane = await open();
    const raw = await openRawConnection(plane.port);
    raw.write(ask(plane.token, { token: null }).slice(0, -10));
    await raw.until('HTTP/1.1 401 ');
    raw.socket.destroy();
  });

  it('is told 408 where it never says anything', async () => {
    const plane = await open({ requestTimeoutMs: 300 });
    const raw = await openRawConnection(plane.port);
    expect(await raw.ended()).toMatch(/^HTTP\/1\.1 408 .*"code":"REQUEST_TIMEOUT"/s);
  });

  it('reads a body that comes by itself, each time', async () => {
    const plane = await open();
    const raw = await openRawConnection(plane.port);
    raw.socket.setNoDelay();
    const text = ask(plane.token);
    const body = text.indexOf('\r\n\r\n') + 4;
    const read = await readByNode(async () => {
      for (let count = 1; count <= 5; count++) {
        raw.write(text.slice(0, body + count));
        await new Promise((resolve) => setTimeout(resolve, 20));
        raw.write(text.slice(body + count));
        expect((await answers(raw, count)).at(-1)).toContain('"code":"VALID"');
      }
    });
    expect(read).toBe(0);
    raw.socket.destroy();
  });

  it('reads reports of usage and batches as well, and bodies that come in many pieces', async () => {
    const plane = await open();
    const { secret: token } = await plane.newToken(['keys:verify', 'usage:write']);
    const key = await ledger.newKey();
    const raw = await openRawConnection(plane.port);
    raw.socket.setNoDelay();
    const report = ask(token, {
      target: '/v1/usage',
      body: JSON.stringify(Array.from({ length: 50 }, () => ({ keyId: key.keyId, endpoint: 'GET /', status: 200, durationMs: 1 }))),
    });
    const read = await readByNode(async () => {
      for (let from = 0; from < report.length; from += 500) {
        raw.write(report.slice(from, from + 500));
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      await answers(raw, 1);
      raw.write(
        ask(token, { target: '/v1/verify/batch', body: JSON.stringify({ requests: [{ key: key.secret }, { key: 'sk_live_none' }] }) }),
      );
      await answers(raw, 2);
      raw.write(ask(plane.token, { target: '/v1/usage', body: report.slice(report.indexOf('[')) }));
      await answers(raw, 3);
      raw.write(ask(token, { body: JSON.stringify({ key: key.secret }) }));
      await answers(raw, 4);
    });
    expect(read).toBe(0);
    const [reported, batch, forbidden, verified] = await answers(raw, 4);
    expect(reported).toContain('{"accepted":50,"duplicates":0,"position":"');
    expect(batch).toMatch(/"answers":\[\{.*"code":"VALID".*"code":"INVALID_KEY"/s);
    expect(forbidden).toMatch(/^HTTP\/1\.1 403 .*"code":"FORBIDDEN"/s);
    expect(verified).toContain('"code":"VALID"');
    raw.socket.destroy();
  });

  it('leaves a body in very many pieces, and one that is large, to node:http', async () => {
    const plane = await open();
    const raw = await openRawConnection(plane.port);
    raw.socket.setNoDelay();
    const text = ask(plane.token, { body: JSON.stringify({ key: secret, endpoint: 'x'.repeat(100) }) });
    const body = text.indexOf('\r\n\r\n') + 4;
    const read = await readByNode(async () => {
      raw.write(text.slice(0, body));
      for (const byte of text.slice(body)) {
        await new Promise((resolve) => setTimeout(resolve, 2));
        raw.write(byte);
      }
      expect((await answers(raw, 1))[0]).toContain('"code":"VALID"');
    });
    expect(read).toBe(1);
    raw.socket.destroy();

    const other = await openRawConnection(plane.port);
    const readLarge = await readByNode(async () => {
      other.write(ask(plane.token, { body: ' '.repeat(65_537) }));
      expect((await answers(other, 1))[0]).toMatch(/^HTTP\/1\.1 413 /);
    });
    expect(readLarge).toBe(1);
    other.socket.destroy();
  });

  it.each([
    ['the rest of a head', -20],
    ['the rest of a body', -1],
  ])('tells 408 where %s does not come', async (_what, place) => {
    const plane = await open({ requestTimeoutMs: 300 });
    const raw = await openRawConnection(plane.port);
    raw.write(ask(plane.token));
    await answers(raw, 1);
    raw.write(ask(plane.token, { body: '{"key":"1"}' }).slice(0, place));
    expect(await raw.ended()).toMatch(/HTTP\/1\.1 200 .*HTTP\/1\.1 408 /s);
  });

  it('tells 408 where a body comes byte by byte', async () => {
    const plane = await open({ requestTimeoutMs: 300 });
    const raw = await openRawConnection(plane.port);
    const text = ask(plane.token, { body: ' '.repeat(1000) });
    raw.write(text.slice(0, -1000));
    const drip = setInterval(() => raw.write(' '), 20);
    expect(await raw.ended()).toMatch(/^HTTP\/1\.1 408 /);
    clearInterval(drip);
  });

  it('tells 400 to a client that ends in the middle of a body', async () => {
    const plane = await open();
    const raw = await openRawConnection(plane.port);
    raw.socket.end(ask(plane.token).slice(0, -1));
    expect(await raw.ended()).toMatch(/^HTTP\/1\.1 400 .*"code":"BAD_USER_INPUT"/s);
  });

  it('ends with its answer while the server drains, and at once where none is awaited', async () => {
    const gate = gated();
    const plane = await open({ admission: gate.admission });
    const [idle, silent, busy] = [
      await openRawConnection(plane.port),
      await openRawConnection(plane.port),
      await openRawConnection(plane.port),
    ];
    idle.write(ask(plane.token, { body: '{' }));
    await answers(idle, 1);
    busy.write(ask(plane.token));
    await gate.arrived;
    const drained = plane.server.drain(10_000);
    await idle.ended();
    gate.open();
    // Whoever has just connected is about to ask.
    silent.write(ask(plane.token));
    await drained;
    for (const raw of [busy, silent]) expect(await raw.ended()).toMatch(/^HTTP\/1\.1 200 .*\r\nConnection: close\r\n\r\n.*"code":"VALID"/s);
  });

  it('keeps no more of a request than its credential', async () => {
    const plane = await open();
    const raws: RawConnection[] = [];
    /** What 200 connections keep that have carried a request with such a head. */
    async function keptWith(long: number): Promise<number> {
      const before = heapUsed();
      for (let count = 0; count < 200; count++) {
        const raw = await openRawConnection(plane.port);
        raws.push(raw);
        raw.write(ask(plane.token, { fields: [`X-Long: ${'x'.repeat(long)}`], body: '{' }));
        await raw.until('BAD_USER_INPUT');
      }
      return heapUsed() - before;
    }
    await keptWith(10);
    // 200 heads are 1.4 MB.
    expect((await keptWith(7000)) - (await keptWith(10))).toBeLessThan(700_000);
    for (const raw of raws) raw.socket.destroy();
  });
});

describe('by itself', () => {
  type Server = {
    readonly port: number;
    readonly plain: PlainConnections;
    readonly released: Socket[];
    /** How many requests were. */
    answered(): number;
    readonly sockets: readonly Socket[];
    /** Codes of what was told. */
    readonly broken: readonly string[];
    close(): void;
  };
  const servers: Server[] = [];
  afterEach(() => {
    for (const server of servers.splice(0)) server.close();
  });

  /** Answers 200 with so many bytes, at once. */
  async function serve({ bytes = 2, keepAliveMs = 65_000, bodyMs = 10_000 } = {}): Promise<Server> {
    const released: Socket[] = [];
    const sockets: Socket[] = [];
    const broken: string[] = [];
    let answered = 0;
    const logger = { error: () => undefined } as never;
    const plain = createPlainConnections({
      routes: [
        {
          method: 'POST',
          path: '/v1/verify',
          name: 'verify',
          handle: () => undefined,
          plain: {
            maxBodyBytes: 1000,
            handle(exchange) {
              answered++;
              answer(exchange, 200, 'x'.repeat(bytes));
            },
          },
        },
      ],
      scope: { logger, metrics: { answered: () => undefined }, reportOutage: () => undefined, isDraining: () => false },
      handOver: (socket) => void released.push(socket),
      silence: { firstMs: 10_000, bodyMs, keepAliveMs },
      onBroken(error, socket) {
        broken.push(error.code);
        socket.end('broken');
      },
    });
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      sockets.push(socket);
      plain.serve(socket);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const close = (): void => {
      plain.closeAll();
      for (const socket of released) socket.destroy();
      server.close();
    };
    const made = { port: (server.address() as AddressInfo).port, plain, released, sockets, broken, answered: () => answered, close };
    servers.push(made);
    return made;
  }

  it('ends after the time for which a connection may be silent', async () => {
    const { port } = await serve({ keepAliveMs: 100 });
    const raw = await openRawConnection(port);
    raw.write(ask(''));
    expect(await raw.ended()).toMatch(/^HTTP\/1\.1 200 OK/);
  });

  it('reads no more of a client that does not read its answers', async () => {
    const server = await serve({ bytes: 1_000_000 });
    const raw = await openRawConnection(server.port);
    raw.socket.pause();
    let sent = 0;
    // One at a time, so that each comes by itself.
    while (server.answered() === sent && sent < 100) {
      raw.write(ask(''));
      sent++;
      const deadline = performance.now() + 500;
      while (server.answered() < sent && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 1));
    }
    expect(server.answered()).toBe(sent - 1);
    expect(sent).toBeLessThan(100);
    raw.socket.resume();
    await expect.poll(() => server.answered(), { timeout: 5000 }).toBe(sent);
    expect(server.released).toEqual([]);
  });

  it('decides nothing more once it has told that a body did not come, and ends where nobody reads that', async () => {
    const server = await serve({ bytes: 40_000, keepAliveMs: 400, bodyMs: 100 });
    const raw = await openRawConnection(server.port);
    raw.socket.pause();
    let sent = 0;
    // Until an answer does not fit into what the system keeps of a connection; the next one would stop the reading.
    while ((server.sockets[0]?.writableLength ?? 0) === 0) {
      raw.write(ask(''));
      sent++;
      await expect.poll(() => server.answered(), { interval: 1 }).toBe(sent);
    }
    const text = ask('');
    raw.write(text.slice(0, -5));
    await expect.poll(() => server.broken, { timeout: 5000, interval: 5 }).toEqual(['ERR_HTTP_REQUEST_TIMEOUT']);
    raw.write(text.slice(-5));
    await expect.poll(() => server.sockets[0]?.destroyed, { timeout: 5000 }).toBe(true);
    expect(server.answered()).toBe(sent);
    raw.socket.destroy();
  });

  it('leaves nothing of itself on a socket that it handed over', async () => {
    const { port, released } = await serve();
    const raw = await openRawConnection(port);
    raw.write(ask(''));
    await answers(raw, 1);
    raw.write('GET / HTTP/1.1\r\n');
    await expect.poll(() => released.length).toBe(1);
    const [socket] = released;
    const fresh = await new Promise<Socket>((resolve) => {
      const other = createServer({ allowHalfOpen: true }, (accepted) => {
        other.close();
        resolve(accepted);
      }).listen(0, '127.0.0.1', () => void openRawConnection((other.address() as AddressInfo).port));
    });
    const counts = (of: Socket | undefined) =>
      Object.fromEntries((of?.eventNames() ?? []).map((name) => [String(name), of?.listenerCount(name)]));
    expect(counts(socket)).toEqual(counts(fresh));
    expect(socket?.timeout).toBe(0);
    fresh.destroy();
  });
});
