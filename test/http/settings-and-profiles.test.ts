import { afterAll, beforeAll, expect, test } from 'vitest';

import { done } from '../support/ledger.ts';
import { openDataPlane, type DataPlane } from './data-plane.ts';
import { sendForwarded } from './forwarded-request.ts';
import { verifyAnswerSchema } from '../../src/http/answer-schemas.ts';

let plane: DataPlane;
let token: string;
beforeAll(async () => {
  plane = await openDataPlane();
  token = (await plane.newToken(['keys:verify'])).secret;
});
afterAll(() => plane.close());

const verify = async (key: string) => verifyAnswerSchema.parse((await plane.post('/v1/verify', { key }, { token })).body);
const forward = (key: string) => sendForwarded(plane, token, { 'x-api-key': key });

test("1.6 a key's profile is told by /v1/verify with its settings, and by /v1/forward-auth with its name, percent-encoded", async () => {
  const { owner, profiles, organization } = plane.ledger;
  const settings = { model: 'm-large', thresholds: [0.1, 0.9], nested: { on: true } };
  const { result } = done(await profiles.create(owner, { organizationId: organization.id, name: 'Zürich 100 %', settings }));
  const { secret } = await plane.ledger.newKey({ profileId: result.profileId });
  expect((await verify(secret)).key?.profile).toEqual({ name: 'Zürich 100 %', settings });
  const { headers } = await forward(secret);
  expect(headers.get('x-key-profile')).toBe('Z%C3%BCrich 100 %25');
  expect(decodeURIComponent(headers.get('x-key-profile') ?? '')).toBe('Zürich 100 %');
  done(await profiles.update(owner, { id: result.profileId, name: 'Bern', settings: {} }));
  expect((await verify(secret)).key?.profile).toEqual({ name: 'Bern', settings: {} });
  expect((await forward(secret)).headers.get('x-key-profile')).toBe('Bern');
});

test('4.2 a quota that is used up is answered with the status that the organization asks for, behind nginx too', async () => {
  const { owner, organizations, organization } = plane.ledger;
  const { secret } = await plane.ledger.newKey({ quotas: { weekly: 1 } });
  expect((await forward(secret)).status).toBe(200);
  expect((await forward(secret)).status).toBe(429);
  expect(await verify(secret)).toMatchObject({ code: 'QUOTA_EXCEEDED', quota: 'weekly', httpStatus: 429 });
  done(await organizations.changeSettings(owner, { organizationId: organization.id, quotaStatus: 401 }));
  const refused = await forward(secret);
  expect(refused).toMatchObject({ status: 401, body: '{"error":"Rate limit exceeded: quota weekly"}' });
  expect(refused.headers.get('x-auth-code')).toBe('QUOTA_EXCEEDED');
  expect(refused.headers.get('www-authenticate')).toBe('Bearer');
  expect(refused.headers.has('retry-after')).toBe(true);
  const nginx = await sendForwarded(plane, token, { 'x-api-key': secret }, { path: '/v1/forward-auth?dialect=nginx' });
  expect(nginx.status).toBe(401);
  expect(await verify(secret)).toMatchObject({ code: 'QUOTA_EXCEEDED', httpStatus: 401 });
});
