import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { AdmissionUnavailableError } from '../../src/admission/admission.ts';
import { REQUEST_REFUSALS, VERIFICATION_REFUSALS, type RequestRefusalCode, type VerificationRefusal } from '../../src/domain/refusals.ts';
import { at } from '../graphql/at.ts';
import { openTestGraphql, type TestGraphql } from '../graphql/graphql-server.ts';
import { openDataPlane, type DataPlane, type DataPlaneOptions } from '../http/data-plane.ts';
import { openRawConnection } from '../http/raw-connection.ts';
import { done } from '../support/ledger.ts';
import { installTestClock, type TestClock } from '../support/test-clock.ts';

let server: TestGraphql;
let plane: DataPlane;
let token: string;
let clock: TestClock;
beforeAll(async () => {
  server = await openTestGraphql();
  clock = await installTestClock(server.ledger.testDatabase);
  plane = await openDataPlane({ on: server.ledger });
  token = (await plane.newToken(['keys:verify', 'usage:write'])).secret;
});
afterAll(async () => {
  await clock.close();
  await plane.close();
  await server.close();
});

type Refused = {
  /** Settings of the key that is refused. */
  readonly key?: Readonly<Record<string, unknown>> | (() => Promise<Readonly<Record<string, unknown>>>);
  /** What the question has beside that key, or in its place. */
  readonly question?: Readonly<Record<string, unknown>>;
  readonly before?: (keyId: string, secret: string) => Promise<unknown>;
  readonly message?: string;
};

const BLOCKED = '203.0.113.66';
const MINUTE_MS = 60_000;

/** Each code by the shortest way to it. The record has every code of the catalogue, since it wouldn't compile otherwise. */
const REFUSALS: Readonly<Record<Exclude<VerificationRefusal, 'INSUFFICIENT_BALANCE'>, Refused>> = {
  INVALID_KEY: { question: { key: 'sk_live_nonsense' } },
  INACTIVE: { before: async (id) => done(await server.ledger.keys.deactivate(server.ledger.owner, { id })) },
  EXPIRED: {
    key: async () => ({ expiresAt: new Date((await clock.now()).getTime() + MINUTE_MS) }),
    before: () => clock.advance(MINUTE_MS),
  },
  PERMISSION_DENIED: { question: { permissions: ['write:x'] } },
  WRONG_ENVIRONMENT: { key: { type: 'TEST' }, question: { environment: 'live' } },
  IP_NOT_ALLOWED: { key: { ipAllowlist: ['192.0.2.0/24'] }, question: { ip: '203.0.113.7' } },
  ORIGIN_NOT_ALLOWED: { key: { allowedOrigins: ['https://app.example'] }, question: { origin: 'https://evil.example' } },
  IP_BLOCKED: {
    question: { ip: BLOCKED },
    before: () => Promise.all(Array.from({ length: 20 }, (_, index) => server.ledger.verify(`sk_live_${index}`, { ip: BLOCKED }))),
  },
  QUOTA_EXCEEDED: { key: { quotas: { monthly: 1 } }, question: { cost: 2 }, message: 'Rate limit exceeded: quota monthly' },
  RATE_LIMITED: { key: { limits: { requestsPerMinute: 1 } }, question: { cost: 2 } },
};

describe('4.2 every refusal of a verification', () => {
  const VERIFY = 'mutation ($input: VerifyApiKeyInput!) { verifyApiKey(input: $input) { valid code message } }';

  const overHttp = async (question: Readonly<Record<string, unknown>>, by = token): Promise<unknown> => {
    const { status, body } = await plane.post('/v1/verify', question, { token: by });
    expect(status).toBe(200);
    return body;
  };
  const overGraphql = async ({ environment, ...question }: Readonly<Record<string, unknown>>, by?: string): Promise<unknown> => {
    const input = { ...question, ...(typeof environment === 'string' ? { environment: environment.toUpperCase() } : {}) };
    const { data, errors } = await server.query(VERIFY, { input }, by);
    expect(errors).toEqual([]);
    return at(data, 'verifyApiKey');
  };

  for (const [code, refused] of Object.entries(REFUSALS)) {
    const message = refused.message ?? VERIFICATION_REFUSALS[code as VerificationRefusal].message;
    it(`${code}, "${message}", is reached over HTTP and GraphQL`, async () => {
      for (const ask of [overHttp, overGraphql]) {
        const settings = typeof refused.key === 'function' ? await refused.key() : refused.key;
        const { keyId, secret } = await server.ledger.newKey({ permissions: ['read:x'], ...settings });
        await refused.before?.(keyId, secret);
        expect(await ask({ key: secret, ...refused.question })).toMatchObject({ valid: false, code, message });
      }
    });
  }

  it('INSUFFICIENT_BALANCE, "Insufficient balance", is reached over HTTP and GraphQL', async () => {
    const { id, owner } = await server.ledger.newOrganization('Without funds');
    const { secret } = await server.ledger.newKey({}, owner);
    done(await server.ledger.balances.enable(null, { organizationId: id, fundsMicros: 50_000 }));
    const { token: gateway } = await server.tokenOf({ permissions: ['keys:verify'] }, id);
    for (const ask of [overHttp, overGraphql]) {
      expect(await ask({ key: secret }, gateway)).toMatchObject({ code: 'INSUFFICIENT_BALANCE', message: 'Insufficient balance' });
    }
  });
});

describe('every refusal of a request', () => {
  /** On a server of its own where it takes one. */
  async function on<Result>(options: DataPlaneOptions, ask: (other: DataPlane) => Promise<Result>): Promise<Result> {
    const other = await openDataPlane({ on: server.ledger, ...options });
    try {
      return await ask(other);
    } finally {
      await other.close();
    }
  }
  const failing = (error: Error): DataPlaneOptions => ({
    admission: { ...server.ledger.admission, verify: () => Promise.reject(error) },
  });
  const verify = (body: unknown, options: Parameters<DataPlane['post']>[2] = { token }, other = plane) =>
    other.post('/v1/verify', body, options);

  const WAYS: Readonly<Record<RequestRefusalCode, () => Promise<{ readonly status: number; readonly text: string }>>> = {
    BAD_USER_INPUT: () => verify('{'),
    UNAUTHENTICATED: () => verify({ key: 'x' }, {}),
    FORBIDDEN: async () => verify({ key: 'x' }, { token: (await plane.newToken(['usage:write'])).secret }),
    NOT_FOUND: () => plane.ask('/v1/nothing'),
    METHOD_NOT_ALLOWED: () => plane.ask('/v1/verify'),
    REQUEST_TIMEOUT: () =>
      on({ requestTimeoutMs: 300 }, async ({ port }) => {
        const raw = await openRawConnection(port);
        raw.write(`POST /v1/verify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\nContent-Length: 100\r\n\r\n{"key":`);
        const text = await raw.ended();
        return { status: Number(/^HTTP\/1\.1 (\d+)/.exec(text)?.[1]), text };
      }),
    REQUEST_ID_TAKEN: async () => {
      const { keyId, secret } = await server.ledger.newKey();
      await plane.post('/v1/usage', [{ requestId: 'taken', keyId, endpoint: 'GET /', status: 200, durationMs: 1 }], { token });
      return verify({ key: secret, requestId: 'taken' });
    },
    PAYLOAD_TOO_LARGE: () => verify({ key: 'x'.repeat(70_000) }),
    UNSUPPORTED_MEDIA_TYPE: () => verify('key=x', { token, type: 'application/x-www-form-urlencoded' }),
    HEADERS_TOO_LARGE: () => verify({ key: 'x' }, { token, headers: { 'x-long': 'x'.repeat(40_000) } }),
    INTERNAL_SERVER_ERROR: () => on(failing(new Error('a bug')), (other) => verify({ key: 'x' }, { token }, other)),
    SERVICE_UNAVAILABLE: () =>
      on(failing(new AdmissionUnavailableError('full', { retryAfterSeconds: 1 })), (other) => verify({ key: 'x' }, { token }, other)),
  };

  for (const [code, ask] of Object.entries(WAYS)) {
    const { httpStatus } = REQUEST_REFUSALS[code as RequestRefusalCode];
    it(`${code} is reached, with ${httpStatus}`, async () => {
      const { status, text } = await ask();
      expect({ status, text }).toMatchObject({ status: httpStatus });
      expect(text).toContain(`{"error":{"code":"${code}","message":"`);
    });
  }
});
