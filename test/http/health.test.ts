import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { livenessSchema, readinessSchema } from '../../src/http/answer-schemas.ts';
import { clientConfig } from '../../src/postgres/client-config.ts';
import { createAdmission } from '../../src/admission/create-admission.ts';
import { Secret } from '../../src/lib/secret.ts';
import { openDatabase } from '../../src/postgres/pool.ts';
import { backendPids, canSignalBackends, createTestDatabase, signalBackend } from '../support/database.ts';
import { openTestLedger, type TestLedger } from '../support/ledger.ts';
import { textMatching } from '../support/matching.ts';
import { openDataPlane, type DataPlaneOptions } from './data-plane.ts';

let ledger: TestLedger;
beforeAll(async () => {
  ledger = await openTestLedger();
});
afterAll(() => ledger.close());

/** Runs a server for one test. */
async function withPlane<T>(options: DataPlaneOptions, work: (plane: Awaited<ReturnType<typeof openDataPlane>>) => Promise<T>): Promise<T> {
  const plane = await openDataPlane({ on: ledger, ...options });
  try {
    return await work(plane);
  } finally {
    await plane.close();
  }
}

const UNREACHABLE = { connectionString: new Secret('postgres://nobody:secret@127.0.0.1:1/none'), applicationName: 'keyledger test' };

describe('/readyz', () => {
  it('is 200 with each check where all is well', () =>
    withPlane({}, async (plane) => {
      const { status, body } = await plane.ask('/readyz');
      expect({ status, body }).toEqual({
        status: 200,
        body: {
          status: 'ready',
          checks: { database: { ok: true }, migrations: { ok: true }, projectors: { ok: true }, draining: { ok: true } },
        },
      });
      expect(readinessSchema.safeParse(body).error).toBeUndefined();
    }));

  it.each([
    [1000, 200],
    [1001, 503],
  ])('with projectors %i events behind is %i', (lag, status) =>
    withPlane({ projectorLag: () => Promise.resolve(lag) }, async (plane) => {
      const answer = await plane.ask('/readyz');
      expect(answer).toMatchObject({ status, body: { checks: { projectors: { ok: status === 200 }, database: { ok: true } } } });
      expect(readinessSchema.safeParse(answer.body).error).toBeUndefined();
    }),
  );

  it('is 503 where a check throws, and says nothing of why', () =>
    withPlane({ projectorLag: () => Promise.reject(new Error('password of canary')) }, async (plane) => {
      const answer = await plane.ask('/readyz');
      expect(answer.status).toBe(503);
      expect(answer.text).not.toContain('canary');
    }));

  it('is 503 where migrations are missing', async () => {
    const empty = await createTestDatabase({ empty: true });
    const database = openDatabase({
      connectionString: empty.ownerUrl,
      applicationName: 'keyledger test',
      role: null,
      maxConnections: 2,
      onError: () => undefined,
    });
    try {
      await withPlane({ database }, async (plane) => {
        expect(await plane.ask('/readyz')).toMatchObject({
          status: 503,
          body: { checks: { database: { ok: true }, migrations: { ok: false, reason: textMatching('npm run migrate') } } },
        });
      });
    } finally {
      await database.close();
      await empty.drop();
    }
  });

  it('is 503 where the database is gone, while /livez stays 200 and verification and usage answer 503', async () => {
    const database = openDatabase({ ...UNREACHABLE, maxConnections: 2, onError: () => undefined });
    const admission = createAdmission({
      database,
      connection: clientConfig(UNREACHABLE),
      peppers: ledger.peppers,
      argon2: ledger.argon2,
      replaceVerifier: ledger.imports.replaceVerifier,
      onError: () => undefined,
    });
    try {
      await withPlane({ database, admission }, async (plane) => {
        const live = await plane.ask('/livez');
        expect(live).toMatchObject({ status: 200, body: { status: 'ok' } });
        expect(livenessSchema.safeParse(live.body).error).toBeUndefined();
        expect(await plane.ask('/readyz')).toMatchObject({
          status: 503,
          body: { checks: { database: { ok: false }, migrations: { ok: false }, draining: { ok: true } } },
        });
        for (const [path, body] of [
          ['/v1/verify', { key: 'sk_live_x' }],
          ['/v1/usage', []],
        ] as const) {
          const { status, headers, text } = await plane.post(path, body, { token: 'klat_x' });
          expect({ path, status, text }).toEqual({ path, status: 503, text: textMatching('"SERVICE_UNAVAILABLE"') });
          expect(Number(headers.get('retry-after'))).toBeGreaterThan(0);
          expect(text).not.toContain('127.0.0.1');
        }
        const metrics = await plane.ask('/metrics');
        expect(metrics.status).toBe(200);
        expect(metrics.text).toContain('keyledger_database_up 0');
        expect(metrics.text).not.toMatch(/^keyledger_log_head_position \d/m);
      });
    } finally {
      await admission.close();
      await database.close();
    }
  });

  it.runIf(canSignalBackends())(
    'is 503 within about a second where the database hangs, asks it once however often it is probed, and is 200 again when it goes on',
    async () => {
      const settings = { connectionString: ledger.testDatabase.serverUrl, applicationName: 'keyledger frozen' };
      const database = openDatabase({ ...settings, maxConnections: 5, onError: () => undefined });
      try {
        await database.pool.query('SELECT 1');
        const [pid] = await backendPids(ledger.testDatabase, 'keyledger frozen');
        if (pid === undefined) throw new Error('the pool has no backend');
        await withPlane({ database }, async (plane) => {
          signalBackend(pid, 'SIGSTOP');
          try {
            const startedMs = performance.now();
            const probes = await Promise.all(Array.from({ length: 10 }, () => plane.ask('/readyz')));
            expect(probes.map(({ status }) => status)).toEqual(Array.from({ length: 10 }, () => 503));
            expect(probes[0]?.body).toMatchObject({ checks: { database: { ok: false, reason: 'No answer within 1000 ms.' } } });
            expect(performance.now() - startedMs).toBeGreaterThan(900);
            expect(database.pool.totalCount).toBeLessThan(5);
          } finally {
            signalBackend(pid, 'SIGCONT');
          }
          await expect.poll(async () => (await plane.ask('/readyz')).status, { timeout: 10_000 }).toBe(200);
        });
      } finally {
        await database.close();
      }
    },
  );
});

describe('/metrics', () => {
  it('tells what happened, in the text format, with numbers that move', () =>
    withPlane({}, async (plane) => {
      const token = (await plane.newToken(['keys:verify', 'usage:write'])).secret;
      const { secret, keyId } = await ledger.newKey();
      await plane.post('/v1/verify', { key: secret }, { token });
      await plane.post('/v1/verify', { key: secret }, { token });
      await plane.post('/v1/verify', { key: 'x' }, { token });
      await plane.post('/v1/verify', {}, { token });
      const item = { requestId: 'once', keyId, endpoint: 'GET /', status: 200, durationMs: 1 };
      await plane.post('/v1/usage', [item, item], { token });
      const { status, headers, text } = await plane.ask('/metrics');
      expect(status).toBe(200);
      expect(headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8');
      for (const line of [
        'keyledger_verifications_total{code="VALID"} 2',
        'keyledger_verifications_total{code="INVALID_KEY"} 1',
        'keyledger_http_requests_total{route="verify",status="200"} 3',
        'keyledger_http_requests_total{route="verify",status="400"} 1',
        'keyledger_http_request_duration_seconds_count{route="verify"} 4',
        'keyledger_usage_items_total{outcome="accepted"} 1',
        'keyledger_usage_items_total{outcome="duplicate"} 1',
        'keyledger_projector_position{projector="usage"} 0',
        'keyledger_verify_queued 0',
        'keyledger_verify_batches_in_flight 0',
        'keyledger_verify_connected 1',
        'keyledger_subscriptions 3',
        'keyledger_database_up 1',
      ]) {
        expect(text.split('\n')).toContain(line);
      }
      expect(text).toMatch(/^keyledger_log_head_position [1-9]\d*$/m);
      expect(text).toMatch(/^keyledger_pool_connections [1-9]\d*$/m);
      expect(text).toMatch(/^process_cpu_seconds_total /m);
      expect(text).not.toContain(ledger.organization.id);
      expect(text).not.toContain(keyId);
    }));

  it('are those of one server alone', () =>
    withPlane({}, async (one) => {
      await one.ask('/nowhere');
      await withPlane({}, async (other) => {
        expect((await other.ask('/metrics')).text).not.toContain('keyledger_http_requests_total{route="none"');
      });
    }));
});
