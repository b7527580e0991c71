import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { usageAnswerSchema } from '../../src/http/answer-schemas.ts';
import { textMatching } from '../support/matching.ts';
import { openDataPlane, type Answer, type DataPlane } from './data-plane.ts';

let plane: DataPlane;
let token: string;
let keyId: string;
let secret: string;

beforeAll(async () => {
  plane = await openDataPlane({ maxUsageBodyBytes: 4 * 1024 * 1024 });
  token = (await plane.newToken(['usage:write', 'keys:verify'])).secret;
  ({ keyId, secret } = await plane.ledger.newKey());
});
afterAll(() => plane.close());

const NDJSON = 'application/x-ndjson';

function report(body: unknown, type?: string): Promise<Answer> {
  return plane.post('/v1/usage', body, { token, ...(type === undefined ? {} : { type }) });
}

function item(more: Readonly<Record<string, unknown>> = {}): Record<string, unknown> {
  return { keyId, endpoint: 'GET /v1/models', status: 200, durationMs: 12, ...more };
}

function lines(...items: readonly unknown[]): string {
  return items.map((one) => `${JSON.stringify(one)}\n`).join('');
}

async function recorded(): Promise<number> {
  const { count } = await plane.ledger.db
    .selectFrom('usage_events')
    .select((select) => select.fn.countAll<string>().as('count'))
    .executeTakeFirstOrThrow();
  return Number(count);
}

describe('POST /v1/usage', () => {
  it.each<[string, unknown, string | undefined, number]>([
    ['lines of JSON', 'lines', NDJSON, 2],
    ['lines of JSON with blank ones and Windows line ends', 'crlf', NDJSON, 2],
    ['a JSON array', 'array', undefined, 2],
    ['one JSON object', 'object', undefined, 1],
    ['one object over several lines', 'pretty', undefined, 1],
  ])('takes %s', async (_what, form, type, accepted) => {
    const bodies: Record<string, unknown> = {
      lines: lines(item(), item()),
      crlf: `\r\n${lines(item(), item()).replaceAll('\n', '\r\n')}\r\n`,
      array: [item(), item()],
      object: item(),
      pretty: JSON.stringify(item(), null, 2),
    };
    const before = await recorded();
    const answer = await report(bodies[String(form)], type);
    expect(answer).toMatchObject({ status: 200, body: { accepted, duplicates: 0 } });
    expect(usageAnswerSchema.safeParse(answer.body).error).toBeUndefined();
    expect(await recorded()).toBe(before + accepted);
  });

  it.each([
    ['an array', () => JSON.stringify([item()])],
    ['lines', () => lines(item(), item())],
    ['one object over several lines', () => JSON.stringify(item(), null, 2)],
  ])('finds out by itself that a body without Content-Type is %s', async (_what, body) => {
    const answer = await plane.ask('/v1/usage', {
      method: 'POST',
      body: new TextEncoder().encode(body()),
      headers: { authorization: `Bearer ${token}` },
    });
    expect(answer.status).toBe(200);
  });

  it('records all of an item, and has committed when it answers', async () => {
    const at = new Date(Date.now() - 60_000);
    const { body } = await report(
      item({
        requestId: 'mine-1',
        at: at.toISOString(),
        ip: '2001:DB8:0::7',
        credits: 3,
        costMicros: 1_000_000_000_000,
        tokensIn: '812',
        tokensOut: 96,
        model: 'small-1',
        status: 503,
      }),
    );
    const row = await plane.ledger.db
      .selectFrom('usage_events')
      .selectAll()
      .where('position', '=', BigInt(String(body['position'])))
      .executeTakeFirstOrThrow();
    expect(row).toMatchObject({
      kind: 2,
      status: 503,
      duration_ms: 12,
      occurred_at: at,
      credits: 3,
      cost_micros: 1_000_000_000_000n,
      tokens_in: 812n,
      tokens_out: 96n,
      model: 'small-1',
      request_id: 'mine-1',
    });
    expect(String(row.ip)).toBe('2001:db8::7');
  });

  it('completes a request that was verified, once', async () => {
    const verified = await plane.post('/v1/verify', { key: secret }, { token });
    const settling = { requestId: verified.body['requestId'], endpoint: 'POST /v1/chat', status: 200, durationMs: 412, tokensOut: 9 };
    expect(await report(settling)).toMatchObject({ status: 200, body: { accepted: 1, duplicates: 0 } });
    expect(await report([settling, settling])).toMatchObject({ status: 200, body: { accepted: 0, duplicates: 2 } });
  });

  it('takes a report of 10,000 items, and none of one more', async () => {
    const many = Array.from({ length: 10_000 }, () => item());
    expect(await report(lines(...many), NDJSON)).toMatchObject({ status: 200, body: { accepted: 10_000 } });
    const before = await recorded();
    expect(await report([...many, item()])).toMatchObject({
      status: 413,
      body: { error: { code: 'PAYLOAD_TOO_LARGE', message: textMatching('10001 items; send 10000') } },
    });
    expect(await recorded()).toBe(before);
  });

  it('takes no body above its own limit', async () => {
    expect(await report('x'.repeat(4 * 1024 * 1024 + 1))).toMatchObject({
      status: 413,
      body: { error: { message: textMatching('4194304 bytes') } },
    });
  });
});

describe('a report with one bad item', () => {
  const before = (seconds: number) => new Date(Date.now() - seconds * 1000).toISOString();
  it.each<[string, () => unknown, string | undefined, RegExp]>([
    ['that is no object', () => 7, undefined, /as a JSON object/],
    ['without endpoint', () => item({ endpoint: undefined }), 'endpoint', /give text/],
    ['with an endpoint that is too long', () => item({ endpoint: 'x'.repeat(257) }), 'endpoint', /at most 256/],
    ['without status', () => item({ status: undefined }), 'status', /100 to 599/],
    ['with status 99', () => item({ status: 99 }), 'status', /100 to 599/],
    ['with status 600', () => item({ status: 600 }), 'status', /100 to 599/],
    ['with a status as text', () => item({ status: '200' }), 'status', /100 to 599/],
    ['without a duration', () => item({ durationMs: undefined }), 'durationMs', /whole milliseconds/],
    ['with a negative duration', () => item({ durationMs: -1 }), 'durationMs', /whole milliseconds/],
    ['with parts of milliseconds', () => item({ durationMs: 1.5 }), 'durationMs', /whole milliseconds/],
    ['that took more than a day', () => item({ durationMs: 86_400_001 }), 'durationMs', /86400000/],
    ['with a moment that is none', () => item({ at: 'yesterday' }), 'at', /such as '2026/],
    ['with a moment without offset', () => item({ at: '2026-01-31T12:00:00' }), 'at', /offset/],
    ['that lies ahead', () => item({ at: before(-400) }), 'at', /5 minutes ahead/],
    ['that is too old', () => item({ at: before(31 * 86_400) }), 'at', /30 days ago/],
    ['with an address that is none', () => item({ ip: 'localhost' }), 'ip', /IP address/],
    ['with negative credits', () => item({ credits: -1 }), 'credits', /0 to 1000000/],
    ['with too many credits', () => item({ credits: 1_000_001 }), 'credits', /0 to 1000000/],
    ['with a negative cost', () => item({ costMicros: -1 }), 'costMicros', /0 to 1000000000000/],
    ['with a cost that is too high', () => item({ costMicros: '1000000000001' }), 'costMicros', /0 to 1000000000000/],
    ['with a cost in units', () => item({ costMicros: '1.5' }), 'costMicros', /decimal digits/],
    ['with broken tokens', () => item({ tokensIn: 0.5 }), 'tokensIn', /whole number/],
    ['with tokens in another notation', () => item({ tokensOut: '1e3' }), 'tokensOut', /decimal digits/],
    ['with a model name that is too long', () => item({ model: 'x'.repeat(129) }), 'model', /at most 128/],
    ['with a key id that is none', () => item({ keyId: 'sk_live_x' }), 'keyId', /a UUID/],
    ['with a request id with a line break', () => item({ requestId: 'a\nb' }), 'requestId', /printable ASCII/],
    ['with a field that is not known', () => item({ tokens: 1 }), undefined, /"tokens" is no field of an item; it takes requestId/],
    ['of a key of nobody', () => item({ keyId: '019a9f3e-1f2b-7c3d-8e4f-5a6b7c8d9e0f' }), undefined, /no key of your organization/],
    ['without key and request', () => item({ keyId: undefined }), undefined, /'keyId' is needed/],
    ['of a generated id that was never given', () => item({ requestId: 'req_999999999' }), undefined, /names no request/],
    ['of a generated id beyond all positions', () => item({ requestId: 'req_9999999999999999999' }), undefined, /names no request/],
  ])('%s is refused whole, and says which and what', async (_what, bad, field, message) => {
    const count = await recorded();
    const answer = await report(lines(item(), item(), bad(), item()), NDJSON);
    expect(answer).toMatchObject({
      status: 400,
      body: { error: { code: 'BAD_USER_INPUT', index: 2, message: textMatching(message), ...(field === undefined ? {} : { field }) } },
    });
    expect(answer.body['error']).toHaveProperty('message', textMatching(/^Item 2: .*Nothing was recorded\.$/));
    expect(await recorded()).toBe(count);
  });

  it('takes what lies just within the bounds', async () => {
    const within = [
      item({ at: before(-250) }),
      item({ at: before(29 * 86_400) }),
      item({ durationMs: 0, status: 599, credits: 0, costMicros: '0', tokensIn: null, model: '' }),
    ];
    expect(await report(within)).toMatchObject({ status: 200, body: { accepted: 3 } });
  });

  it('names the line that is no JSON', async () => {
    const answer = await report(`${lines(item())}\n{"endpoint": "sk_live_CANARY"\n`, NDJSON);
    expect(answer).toMatchObject({ status: 400, body: { error: { index: 1, message: textMatching(/^Line 3 is no JSON/) } } });
    expect(answer.text).not.toContain('CANARY');
  });

  it.each(['', '[]', '\n\n'])('refuses a body without items: %j', async (body) => {
    expect((await report(body, body === '' || body === '\n\n' ? NDJSON : undefined)).status).toBe(400);
  });
});

describe('a reporter', () => {
  it('without credentials is refused before its body is read', async () => {
    expect(await plane.post('/v1/usage', [item()], {})).toMatchObject({ status: 401, body: { error: { code: 'UNAUTHENTICATED' } } });
  });

  it('without usage:write is forbidden to report', async () => {
    const verifier = await plane.newToken(['keys:verify']);
    expect(await plane.post('/v1/usage', [item()], { token: verifier.secret })).toMatchObject({
      status: 403,
      body: { error: { code: 'FORBIDDEN', message: textMatching("'usage:write'") } },
    });
  });

  it('has to name the type of its body where it names one', async () => {
    expect(await report(lines(item()), 'text/csv')).toMatchObject({
      status: 415,
      body: { error: { message: textMatching('application/x-ndjson') } },
    });
  });
});
