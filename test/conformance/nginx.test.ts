import { request } from 'node:http';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { openDataPlane, type DataPlane } from '../http/data-plane.ts';
import { done } from '../support/ledger.ts';
import { documentedConfiguration } from './documented-configuration.ts';
import { hasProgram, startGateway, startUpstream, type Gateway, type Upstream } from './gateway-process.ts';

// nginx itself, with the configuration of docs/gateways.md, before a service that tells what reached it.

describe.skipIf(!hasProgram('nginx', '-v'))('behind nginx, as the guide sets it up', () => {
  let plane: DataPlane;
  let upstream: Upstream;
  let nginx: Gateway;
  let token: { readonly tokenId: string; readonly secret: string };

  beforeAll(async () => {
    plane = await openDataPlane({ trustedProxies: ['127.0.0.1/32'] });
    upstream = await startUpstream();
    token = await plane.newToken(['keys:verify']);
    nginx = await start(plane.port, token.secret);
  });
  afterAll(async () => {
    await nginx.close();
    await upstream.close();
    await plane.close();
  });

  function start(keyledgerPort: number, secret: string, dialect = 'dialect=nginx&'): Promise<Gateway> {
    const server = (port: number) =>
      documentedConfiguration('nginx', {
        'listen 80;': `listen 127.0.0.1:${port};`,
        'server 127.0.0.1:4000;': `server 127.0.0.1:${keyledgerPort};`,
        'http://127.0.0.1:8080': `http://127.0.0.1:${upstream.port}`,
        klat_GATEWAY_TOKEN: secret,
        'dialect=nginx&': dialect,
      });
    const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'];
    return startGateway(
      (port, directory) => `
        daemon off; master_process off; pid ${directory}/nginx.pid; error_log stderr warn;
        events { worker_connections 128; }
        http { access_log off; ${paths.map((name) => `${name}_temp_path ${directory}/${name};`).join(' ')}
        ${server(port)} }`,
      (directory) => ['nginx', '-p', directory, '-e', 'stderr', '-c', `${directory}/gateway.conf`],
    );
  }

  const LIMITS = { permissions: ['read:models'], limits: { requestsPerMinute: 100 } };
  const ask = (headers: Readonly<Record<string, string>>, path = '/v1/models?cost=0&secret=CANARY', init: RequestInit = {}) =>
    fetch(nginx.url + path, { ...init, headers });

  it('4.5 passes a request with its method, query and body on, with the key in place of its secret', async () => {
    const { keyId, secret } = await plane.ledger.newKey({ ...LIMITS, name: 'Ключ' });
    const response = await ask({ 'x-api-key': secret, 'x-key-id': 'forged', 'x-key-profile': 'forged' }, '/v1/models?cost=0', {
      method: 'POST',
      body: '{"a":1}',
    });
    expect(response.status).toBe(200);
    const reached = (await response.json()) as { method: string; url: string; body: string; headers: Record<string, string> };
    expect(reached).toMatchObject({ method: 'POST', url: '/v1/models?cost=0', body: '{"a":1}' });
    expect(reached.headers).toMatchObject({
      'x-key-id': keyId,
      'x-key-organization': plane.ledger.organization.id,
      'x-key-permissions': 'read:models',
    });
    expect(decodeURIComponent(String(reached.headers['x-key-name']))).toBe('Ключ');
    for (const name of ['x-api-key', 'x-gateway-token', 'x-key-profile']) expect(reached.headers).not.toHaveProperty(name);
    expect(response.headers.get('x-ratelimit-limit')).toBe('100');
    // The client's `?cost=0` was its own affair.
    expect(response.headers.get('x-ratelimit-remaining')).toBe('99');
    expect(response.headers.get('ratelimit')).toMatch(/^"key_minute";r=99;t=\d+$/);
    expect(response.headers.get('ratelimit-policy')).toBe('"key_minute";q=100;w=60');
  });

  it('records the original request, whatever the client claims of it', async () => {
    const { secret } = await plane.ledger.newKey(LIMITS);
    const forged = {
      'x-forwarded-uri': '/forged',
      'x-original-uri': '/forged',
      'x-original-method': 'DELETE',
      'x-forwarded-for': '203.0.113.9',
      'x-gateway-token': 'forged',
    };
    const response = await ask({ 'x-api-key': secret, ...forged }, '/v1/models/7?secret=CANARY', { method: 'PUT', body: 'x' });
    const { headers } = (await response.json()) as { headers: Record<string, string> };
    const position = BigInt(String(headers['x-key-request-id']).replace('req_', ''));
    const row = await plane.ledger.db
      .selectFrom('usage_events')
      .select(['endpoint', 'ip'])
      .where('position', '=', position)
      .executeTakeFirstOrThrow();
    expect({ endpoint: row.endpoint, ip: String(row.ip) }).toEqual({ endpoint: 'PUT /v1/models/7', ip: '127.0.0.1' });
  });

  it('refuses with the real status, message and headers, and nothing reaches the service', async () => {
    const before = upstream.seen.length;
    const inactive = await plane.ledger.newKey(LIMITS);
    done(await plane.ledger.keys.deactivate(plane.ledger.owner, { id: inactive.keyId }));
    const unable = await plane.ledger.newKey({ permissions: ['write:models'] });
    const away = await plane.ledger.newKey({ ...LIMITS, ipAllowlist: ['192.0.2.0/24'] });
    for (const [headers, status, error] of [
      [{}, 401, 'Invalid API Key'],
      [{ authorization: 'Bearer sk_live_nonsense' }, 401, 'Invalid API Key'],
      [{ 'x-api-key': inactive.secret }, 401, 'Inactive API Key'],
      [{ 'x-api-key': unable.secret }, 403, 'Permission denied'],
      [{ 'x-api-key': away.secret, 'x-forwarded-for': '192.0.2.7' }, 403, 'IP not allowed'],
    ] as const) {
      const response = await ask(headers);
      expect({ status: response.status, body: (await response.json()) as unknown }).toEqual({ status, body: { error } });
      expect(response.headers.get('content-type')).toBe('application/json');
      expect(response.headers.get('www-authenticate')?.startsWith('Bearer') ?? false).toBe(status === 401);
    }
    expect(upstream.seen.length).toBe(before);
  });

  it('refuses with 429 and Retry-After, which auth_request by itself makes a 500', async () => {
    const { secret } = await plane.ledger.newKey({ ...LIMITS, quotas: { daily: 1 } });
    expect((await ask({ 'x-api-key': secret })).status).toBe(200);
    const response = await ask({ 'x-api-key': secret });
    expect({ status: response.status, body: (await response.json()) as unknown }).toEqual({
      status: 429,
      body: { error: 'Rate limit exceeded: quota daily' },
    });
    expect(Number(response.headers.get('retry-after'))).toBeGreaterThan(0);
    expect(response.headers.get('x-ratelimit-remaining')).toBe('0');
    const plain = await start(plane.port, token.secret, '');
    try {
      // What the guide makes of nginx' own 500.
      expect((await fetch(plain.url, { headers: { 'x-api-key': secret } })).status).toBe(503);
    } finally {
      await plain.close();
    }
  });

  it('asks before it takes a large body in chunks', async () => {
    const { secret } = await plane.ledger.newKey(LIMITS);
    const status = await new Promise<number | undefined>((resolve, reject) => {
      const sent = request(
        `${nginx.url}/v1/models`,
        { method: 'POST', headers: { 'x-api-key': `${secret}x`, 'transfer-encoding': 'chunked' } },
        (response) => {
          resolve(response.statusCode);
          response.resume();
          sent.destroy();
        },
      );
      sent.on('error', reject);
      sent.write('x'.repeat(100_000));
      sent.end();
    });
    expect(status).toBe(401);
  });

  it('says 500 where the gateway’s own token is no good, and 503 where keyledger is not there', async () => {
    const { secret } = await plane.ledger.newKey(LIMITS);
    const revoked = await plane.newToken(['keys:verify']);
    const misconfigured = await start(plane.port, revoked.secret);
    const lonely = await start(1, token.secret);
    try {
      expect((await fetch(misconfigured.url, { headers: { 'x-api-key': secret } })).status).toBe(200);
      done(await plane.ledger.tokens.revoke(plane.ledger.owner, { id: revoked.tokenId }));
      expect((await fetch(misconfigured.url, { headers: { 'x-api-key': secret } })).status).toBe(500);
      expect((await fetch(lonely.url, { headers: { 'x-api-key': secret } })).status).toBe(503);
    } finally {
      await misconfigured.close();
      await lonely.close();
    }
  });
});
