import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { openDataPlane, type DataPlane } from '../http/data-plane.ts';
import { done } from '../support/ledger.ts';
import { textMatching } from '../support/matching.ts';
import { documentedConfiguration } from './documented-configuration.ts';
import { hasProgram, startGateway, startUpstream, type Gateway, type Upstream } from './gateway-process.ts';

// Caddy itself, with the configuration of docs/gateways.md, before a service that tells what reached it.

const DOCUMENTED_URI = 'uri /v1/forward-auth?permissions=read:models';

describe.skipIf(!hasProgram('caddy', 'version'))('behind Caddy, as the guide sets it up', () => {
  let plane: DataPlane;
  let upstream: Upstream;
  let caddy: Gateway;
  let token: string;

  beforeAll(async () => {
    plane = await openDataPlane({ trustedProxies: ['127.0.0.1/32'] });
    upstream = await startUpstream();
    token = (await plane.newToken(['keys:verify'])).secret;
    caddy = await start();
  });
  afterAll(async () => {
    await caddy.close();
    await upstream.close();
    await plane.close();
  });

  function start({ uri = DOCUMENTED_URI, keyledgerPort = plane.port, secret = token } = {}): Promise<Gateway> {
    const site = (port: number) =>
      documentedConfiguration('caddy', {
        ':80 {': `http://127.0.0.1:${port} {`,
        'forward_auth 127.0.0.1:4000': `forward_auth 127.0.0.1:${keyledgerPort}`,
        'reverse_proxy 127.0.0.1:8080': `reverse_proxy 127.0.0.1:${upstream.port}`,
        [DOCUMENTED_URI]: uri,
        klat_GATEWAY_TOKEN: secret,
      });
    return startGateway(
      (port) => `{\n\tadmin off\n\tauto_https off\n}\n${site(port)}`,
      (directory) => ['caddy', 'run', '--config', `${directory}/gateway.conf`, '--adapter', 'caddyfile'],
    );
  }

  const KEY = { permissions: ['read:models'], limits: { requestsPerMinute: 100 } };

  it('4.5 passes a request with its method, query and body on, with the key in place of its secret', async () => {
    const { keyId, secret } = await plane.ledger.newKey({ ...KEY, name: 'Ключ' });
    const response = await fetch(`${caddy.url}/v1/models?cost=0`, {
      method: 'POST',
      body: '{"a":1}',
      headers: { 'x-api-key': secret, 'x-key-id': 'forged', 'x-key-profile': 'forged' },
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
    expect(reached.headers['x-key-profile'] ?? '').toBe('');
    for (const name of ['x-api-key', 'x-gateway-token']) expect(reached.headers).not.toHaveProperty(name);
  });

  it('records the original request, whatever the client claims of it', async () => {
    const { secret } = await plane.ledger.newKey(KEY);
    const forged = {
      'x-forwarded-uri': '/forged',
      'x-forwarded-method': 'DELETE',
      'x-original-uri': '/forged',
      'x-original-method': 'DELETE',
      'x-forwarded-for': '203.0.113.9',
      'x-gateway-token': 'forged',
    };
    const response = await fetch(`${caddy.url}/v1/models/7?secret=CANARY`, {
      method: 'PUT',
      body: 'x',
      headers: { 'x-api-key': secret, ...forged },
    });
    const { headers } = (await response.json()) as { headers: Record<string, string> };
    const position = BigInt(String(headers['x-key-request-id']).replace('req_', ''));
    const row = await plane.ledger.db
      .selectFrom('usage_events')
      .select(['endpoint', 'ip'])
      .where('position', '=', position)
      .executeTakeFirstOrThrow();
    expect({ endpoint: row.endpoint, ip: String(row.ip) }).toEqual({ endpoint: 'PUT /v1/models/7', ip: '127.0.0.1' });
  });

  it('passes refusals on as they are, and nothing reaches the service', async () => {
    const before = upstream.seen.length;
    const inactive = await plane.ledger.newKey(KEY);
    done(await plane.ledger.keys.deactivate(plane.ledger.owner, { id: inactive.keyId }));
    const unable = await plane.ledger.newKey({ permissions: ['write:models'] });
    const spent = await plane.ledger.newKey({ ...KEY, quotas: { daily: 1 } });
    await plane.ledger.verify(spent.secret);
    for (const [headers, status, error] of [
      [{}, 401, 'Invalid API Key'],
      [{ authorization: 'Bearer sk_live_nonsense' }, 401, 'Invalid API Key'],
      [{ 'x-api-key': inactive.secret }, 401, 'Inactive API Key'],
      [{ 'x-api-key': unable.secret }, 403, 'Permission denied'],
      [{ 'x-api-key': spent.secret }, 429, 'Rate limit exceeded: quota daily'],
    ] as const) {
      const response = await fetch(`${caddy.url}/v1/models`, { headers });
      expect({ status: response.status, body: (await response.json()) as unknown }).toEqual({ status, body: { error } });
      expect(response.headers.has('www-authenticate')).toBe(status === 401);
      expect(response.headers.has('retry-after')).toBe(status === 429);
      expect(response.headers.has('ratelimit')).toBe(status === 429);
    }
    expect(upstream.seen.length).toBe(before);
  });

  it('without the ? in its uri it sends the client’s query as its own, and is refused before a client can choose its cost', async () => {
    const { secret } = await plane.ledger.newKey(KEY);
    const wrong = await start({ uri: 'uri /v1/forward-auth' });
    const right = await start({ uri: 'uri /v1/forward-auth?' });
    try {
      const get = (gateway: Gateway, query: string) => fetch(`${gateway.url}/v1/models${query}`, { headers: { 'x-api-key': secret } });
      expect((await get(wrong, '')).status).toBe(200);
      const refused = await get(wrong, '?cost=0');
      expect({ status: refused.status, body: (await refused.json()) as unknown }).toEqual({
        status: 502,
        body: { error: textMatching(/end the path with '\?'/) },
      });
      expect((await get(right, '?cost=0')).status).toBe(200);
      expect(await plane.ledger.verify(secret, { cost: 0 })).toMatchObject({ rateLimit: { remaining: 98 } });
    } finally {
      await wrong.close();
      await right.close();
    }
  });

  it('says 502 where its own token is no good, or keyledger is not there', async () => {
    const { secret } = await plane.ledger.newKey(KEY);
    const misconfigured = await start({ secret: 'klat_unknown' });
    const lonely = await start({ keyledgerPort: 1 });
    try {
      for (const gateway of [misconfigured, lonely])
        expect((await fetch(gateway.url, { headers: { 'x-api-key': secret } })).status).toBe(502);
    } finally {
      await misconfigured.close();
      await lonely.close();
    }
  });
});
