import { afterAll, beforeAll, expect, it } from 'vitest';

import { openDataPlane, type DataPlane } from '../http/data-plane.ts';
import { documentedConfiguration } from './documented-configuration.ts';
import { startGateway, type Gateway } from './gateway-process.ts';

// The service in Node of docs/gateways.md, as a process of its own.

let plane: DataPlane;
let service: Gateway;

beforeAll(async () => {
  plane = await openDataPlane();
  service = await start((await plane.newToken(['keys:verify'])).secret);
});
afterAll(async () => {
  await service.close();
  await plane.close();
});

function start(token: string): Promise<Gateway> {
  return startGateway(
    (port) =>
      documentedConfiguration('js', {
        "const { KEYLEDGER_URL, KEYLEDGER_TOKEN, PORT = '8080' } = process.env;": `const [KEYLEDGER_URL, KEYLEDGER_TOKEN, PORT] = ['${plane.url}', '${token}', '${port}'];`,
      }),
    (directory) => [process.execPath, `${directory}/service.mjs`],
    'service.mjs',
  );
}

it('4.5 answers a key that may pass, and each other with the status and message that it should see', async () => {
  const good = await plane.ledger.newKey({ name: 'Checkout', permissions: ['read:models'], quotas: { daily: 1 } });
  const unable = await plane.ledger.newKey();
  const get = async (key?: string) => {
    const response = await fetch(`${service.url}/v1/models?secret=x`, { headers: key === undefined ? {} : { 'x-api-key': key } });
    return { status: response.status, body: (await response.json()) as unknown, retries: response.headers.has('retry-after') };
  };
  expect(await get(good.secret)).toEqual({ status: 200, body: { hello: 'Checkout' }, retries: false });
  expect(await get(good.secret)).toEqual({ status: 429, body: { error: 'Rate limit exceeded: quota daily' }, retries: true });
  expect(await get(unable.secret)).toEqual({ status: 403, body: { error: 'Permission denied' }, retries: false });
  expect(await get()).toEqual({ status: 401, body: { error: 'Invalid API Key' }, retries: false });
});

it('lets nobody pass where its own token is no good', async () => {
  const lost = await start('klat_unknown');
  try {
    const { secret } = await plane.ledger.newKey({ permissions: ['read:models'] });
    expect((await fetch(lost.url, { headers: { 'x-api-key': secret } })).status).toBe(503);
  } finally {
    await lost.close();
  }
});
