import { createServer, type IncomingMessage } from 'node:http';
import { connect, type AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { readPlainRequest } from '../../src/http/plain-request.ts';
import { seededRandom, type Random } from '../support/random.ts';

const LINE = 'POST /v1/verify HTTP/1.1\r\n';
const VERIFY = { maxBodyBytes: 1024 * 1024 };
const REPORT = { maxBodyBytes: 100 };
const TARGETS = new Map([
  ['POST /v1/verify HTTP/1.1', VERIFY],
  ['POST /v1/usage HTTP/1.1', REPORT],
]);
const BODY = '{"key":"sk_live_1","endpoint":"GET /v1/models/ü"}';

function request(fields: readonly string[], body = BODY): Buffer {
  return Buffer.from(`${LINE}${fields.map((field) => `${field}\r\n`).join('')}\r\n${body}`);
}

const USUAL = [
  'Host: api.example.com',
  'Authorization: Bearer kl_1',
  'Content-Type: application/json',
  `Content-Length: ${Buffer.byteLength(BODY)}`,
];

describe('a plain request', () => {
  it.each<[string, readonly string[]]>([
    ['as gateways send it', USUAL],
    [
      'with names in any case and in any order',
      USUAL.map((field) =>
        field.toUpperCase().replace('BEARER KL_1', 'Bearer kl_1').replace('APPLICATION/JSON', 'application/json'),
      ).toReversed(),
    ],
    ['with blanks around values', USUAL.map((field) => `${field.replace(': ', ': \t ')} \t`)],
    ['with no blanks before values', USUAL.map((field) => field.replace(': ', ':'))],
    ['with fields that nobody asks for', [...USUAL, 'X-Request-Id: 1', 'Traceparent: 00-1', 'X-Request-Id: 2', 'Accept:']],
    ['that says that it keeps its connection', [...USUAL, 'Connection: Keep-Alive']],
  ])('%s is read', (_what, fields) => {
    expect(readPlainRequest(request(fields), TARGETS)).toEqual({
      headers: { authorization: 'Bearer kl_1', 'content-type': 'application/json', 'content-encoding': undefined },
      body: Buffer.from(BODY),
      missing: 0,
      target: VERIFY,
    });
  });

  it('may have no credential, no type and no body', () => {
    expect(readPlainRequest(request(['Host: x', 'Content-Length: 0'], ''), TARGETS)).toEqual({
      headers: { authorization: undefined, 'content-type': undefined, 'content-encoding': undefined },
      body: Buffer.alloc(0),
      missing: 0,
      target: VERIFY,
    });
  });

  it('is that of its request line', () => {
    const report = Buffer.from(request(USUAL).toString().replace('/verify', '/usage'));
    expect(readPlainRequest(report, TARGETS)).toMatchObject({ target: REPORT, missing: 0 });
  });

  it('tells what of its body has not come', () => {
    const whole = request(USUAL);
    const head = whole.length - Buffer.byteLength(BODY);
    for (let length = head; length <= whole.length; length++)
      expect(readPlainRequest(whole.subarray(0, length), TARGETS)).toMatchObject({
        missing: whole.length - length,
        body: whole.subarray(head, length),
      });
  });
});

describe('a request is left to node:http', () => {
  const twice = (name: string, value: string): readonly string[] => [...USUAL, `${name}: ${value}`];
  it.each<[string, Buffer]>([
    ['that has no host', request(USUAL.slice(1))],
    ['that has no length', request(USUAL.slice(0, 3))],
    ['whose length is no number', request([...USUAL.slice(0, 3), 'Content-Length: 0x31'])],
    ['whose length has a sign', request([...USUAL.slice(0, 3), `Content-Length: +${Buffer.byteLength(BODY)}`])],
    ['with two hosts', request(twice('host', 'other'))],
    ['with two equal lengths', request(twice('content-length', String(Buffer.byteLength(BODY))))],
    ['with two credentials', request(twice('authorization', 'Bearer kl_2'))],
    ['with two types', request(twice('content-type', 'text/plain'))],
    ['with chunks', request([...USUAL, 'Transfer-Encoding: chunked'])],
    ['that is compressed', request([...USUAL, 'Content-Encoding: gzip'])],
    ['that waits for a go-ahead', request([...USUAL, 'Expect: 100-continue'])],
    ['that would be something else', request([...USUAL, 'Upgrade: websocket'])],
    ['that is the last of its connection', request([...USUAL, 'Connection: close'])],
    ['that is the last one by another name', request([...USUAL, 'Proxy-Connection: close'])],
    ['that names fields of its connection', request([...USUAL, 'Connection: keep-alive, x-one'])],
    ['with a folded field', request([...USUAL, 'X-Folded: a\r\n b'])],
    ['with a blank before a colon', request([...USUAL, 'X-Blank : a'])],
    ['with a name that is none', request([...USUAL, 'X(1): a'])],
    ['with a field without a name', request([...USUAL, ': a'])],
    ['with a line without a colon', request([...USUAL, 'nothing'])],
    ['with a NUL', request([...USUAL, 'X-Nul: a\0b'])],
    ['with a bare carriage return', request([...USUAL, 'X-Return: a\rb'])],
    ['with a byte beyond ASCII', request([...USUAL, 'X-Name: é'])],
    ['whose lines end otherwise', Buffer.from(request(USUAL).toString().replaceAll('\r\n', '\n'))],
    ['of another method', Buffer.from(request(USUAL).toString().replace('POST', 'PUT'))],
    ['of another path', Buffer.from(request(USUAL).toString().replace('/verify', '/verify/batch'))],
    ['with a query', Buffer.from(request(USUAL).toString().replace('/verify', '/verify?a'))],
    ['of another version', Buffer.from(request(USUAL).toString().replace('HTTP/1.1', 'HTTP/1.0'))],
    ['after a blank line', Buffer.concat([Buffer.from('\r\n'), request(USUAL)])],
    [
      'with a larger body than its target takes',
      Buffer.from(request(['Host: x', 'Content-Length: 101']).toString().replace('/verify', '/usage')),
    ],
    ['with a body above 64 KiB', request([...USUAL.slice(0, 3), 'Content-Length: 65537'])],
    ['that another one follows', Buffer.concat([request(USUAL), request(USUAL)])],
    ['that something follows', Buffer.concat([request(USUAL), Buffer.from('\n')])],
    ['with more fields than any gateway sends', request([...USUAL, ...Array.from({ length: 97 }, () => 'a:')])],
    ['with a head above 8 KiB', request([...USUAL, `X-Long: ${'a'.repeat(8 * 1024)}`])],
    ['of nothing', Buffer.alloc(0)],
  ])('%s', (_what, chunk) => {
    expect(readPlainRequest(chunk, TARGETS)).toBeNull();
  });

  it('wherever its head was cut', () => {
    const whole = request(USUAL);
    for (let length = 0; length < whole.length - Buffer.byteLength(BODY); length++)
      expect(readPlainRequest(whole.subarray(0, length), TARGETS)).toBeNull();
  });

  it('without looking at it for long', () => {
    const heads = ['a'.repeat(8000), 'a:'.repeat(4000), 'a:b\r\n'.repeat(1600), `a:${'\t'.repeat(8000)}`].map((head) =>
      Buffer.from(LINE + head),
    );
    const startedMs = performance.now();
    for (let round = 0; round < 50; round++) for (const head of heads) expect(readPlainRequest(head, TARGETS)).toBeNull();
    // A pattern that tries every way to divide a line would take seconds for one of them.
    expect(performance.now() - startedMs).toBeLessThan(5000);
  });
});

/** What node:http made of some bytes. */
type Judgement = { readonly requests: readonly unknown[]; /** The connection may be used for another request. */ readonly open: boolean };

/** By the client's port. */
const seen = new Map<number | undefined, unknown[]>();
const server = createServer((incoming, response) => {
  const ofConnection = seen.get(incoming.socket.remotePort);
  void collect(incoming).then((body) => {
    ofConnection?.push(asSeen(incoming, body));
    response.end('told');
  });
});

async function collect(incoming: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of incoming) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString('latin1');
}

function asSeen({ method, url, httpVersion, headers }: IncomingMessage, body: string): unknown {
  const { authorization, 'content-type': type, 'content-encoding': encoding } = headers;
  return { line: `${method} ${url} HTTP/${httpVersion}\r\n`, authorization, type, encoding, body };
}

function judge(bytes: Buffer): Promise<Judgement> {
  const requests: unknown[] = [];
  const { promise, resolve } = Promise.withResolvers<Judgement>();
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1', () => {
    seen.set(socket.localPort, requests);
    socket.write(bytes);
  });
  let answer = '';
  socket.on('data', (chunk: Buffer) => {
    answer += chunk.toString();
    if (answer.endsWith('told')) resolve({ requests, open: answer.includes('Connection: keep-alive') });
    else if (answer.includes('400 Bad Request') || answer.includes('100 Continue')) resolve({ requests, open: false });
  });
  socket.on('error', () => undefined).on('close', () => resolve({ requests, open: false }));
  return promise.finally(() => {
    seen.delete(socket.localPort);
    socket.destroy();
  });
}

/** Bytes that a reader of HTTP may stumble over. */
const ODD = ['\r', '\n', '\r\n', '\0', ' ', '\t', ':', ',', ';', '"', '0', '9', 'a', '\x7f', '\xa0', '\xff', '\r\n '] as const;
const LINES = [
  'Transfer-Encoding: chunked',
  'transfer-encoding: identity',
  'Connection: close',
  'Connection: keep-alive',
  'connection: upgrade',
  'Proxy-Connection: close',
  'Keep-Alive: timeout=1',
  'Expect: 100-continue',
  'Upgrade: h2c',
  'Content-Length: 0',
  'Content-Length: 0049',
  'Content-Encoding: br',
  'Authorization: Bearer other',
  'Content-Type: text/plain',
  'Host: other',
  'Te: trailers',
  ' folded',
  'no colon',
  'X-Empty:',
] as const;

/** A request with up to three oddities. */
function oddRequest(random: Random): Buffer {
  let fields: string[] = [...USUAL];
  for (let count = random.between(0, 2); count > 0; count--) {
    const place = random.between(0, fields.length);
    if (random.chance(0.5)) fields.splice(place, 0, random.pick(LINES));
    else if (random.chance(0.4)) fields.splice(place, 1);
    else fields = fields.map((field, nth) => (nth === place ? field.replace(': ', random.pick([':', ':\t', ': \t ', ' : '])) : field));
  }
  let text = request(fields).toString('latin1');
  if (random.chance(0.6)) {
    const place = random.between(0, text.length);
    text = text.slice(0, place) + random.pick(ODD) + text.slice(place + random.between(0, 1));
  }
  return Buffer.from(text, 'latin1');
}

describe('what is read is what node:http reads', () => {
  beforeAll(() => new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve)));
  afterAll(() => {
    server.closeAllConnections();
    server.close();
  });

  /** How many of so many odd requests were read, and those that node:http reads differently. */
  async function compare(read: (chunk: Buffer) => ReturnType<typeof readPlainRequest>, random: Random, count: number) {
    const different: unknown[] = [];
    let plain = 0;
    for (let nth = 0; nth < count; nth++) {
      const chunk = oddRequest(random);
      const found = read(chunk);
      if (found === null) continue;
      plain++;
      const rest = '.'.repeat(found.missing);
      const expected = {
        requests: [
          {
            line: LINE,
            authorization: found.headers.authorization,
            type: found.headers['content-type'],
            encoding: found.headers['content-encoding'],
            body: found.body.toString('latin1') + rest,
          },
        ],
        open: true,
      };
      const judgement = await judge(Buffer.concat([chunk, Buffer.from(rest)]));
      if (JSON.stringify(judgement) !== JSON.stringify(expected)) different.push({ text: chunk.toString('latin1'), judgement, expected });
    }
    return { plain, different };
  }

  it('of 20,000 odd requests', async () => {
    const random = seededRandom();
    const { plain, different } = await compare((chunk) => readPlainRequest(chunk, TARGETS), random, 20_000);
    expect(different, `seed ${random.seed}`).toEqual([]);
    expect(plain).toBeGreaterThan(1000);
  });

  it.each<[string, (text: string) => string]>([
    ['overlooks chunks', (text) => text.replace(/\r\ntransfer-encoding:[^\r]*/i, '')],
    ['overlooks that a connection is to be closed', (text) => text.replace(/\r\n(proxy-)?connection:[^\r]*/gi, '')],
    ['takes the first of two lengths', (text) => text.replace(/(content-length: \d+)([^]*)\r\ncontent-length: \d+/i, '$1$2')],
    ['takes a line feed for the end of a line', (text) => text.replaceAll(/\r?\n/g, '\r\n')],
    ['ignores blanks before a colon', (text) => text.replaceAll(' :', ':')],
  ])('and a reader that %s is caught', async (_what, careless) => {
    const read = (chunk: Buffer) => readPlainRequest(Buffer.from(careless(chunk.toString('latin1')), 'latin1'), TARGETS);
    const { different } = await compare(read, seededRandom(1), 3000);
    expect(different.length).toBeGreaterThan(0);
  });
});
