import { crc32 } from 'node:zlib';
import { afterAll, beforeAll, expect, it } from 'vitest';

import { encodeBase62Uint32 } from '../../src/lib/base62.ts';
import { done } from '../support/ledger.ts';
import { installTestClock, type TestClock } from '../support/test-clock.ts';
import { openDataPlane, type DataPlane } from './data-plane.ts';

const INVALID = { valid: false, code: 'INVALID_KEY', message: 'Invalid API Key', key: null, rateLimit: null, quotas: [], position: null };

let plane: DataPlane;
let token: string;
let clock: TestClock;
beforeAll(async () => {
  plane = await openDataPlane();
  clock = await installTestClock(plane.ledger.testDatabase);
  token = (await plane.newToken(['keys:verify'])).secret;
});
afterAll(async () => {
  await clock.close();
  await plane.close();
});

const verify = async (key: string) => (await plane.post('/v1/verify', { key }, { token })).body;

/** The same key with another secret part and the right checksum: what somebody would send who knows the public part alone. */
function withAnotherSecret(key: string): string {
  const secret = key.slice(24, 67).replace(/./g, (character) => (character === 'x' ? 'y' : 'x'));
  const text = key.slice(0, 24) + secret;
  return text + encodeBase62Uint32(crc32(text));
}

it('4.3 Inactive and Expired are told for the right secret alone; everything else is Invalid API Key', async () => {
  const { ledger } = plane;
  const inactive = await ledger.newKey();
  done(await ledger.keys.deactivate(ledger.owner, { id: inactive.keyId }));
  const expired = await ledger.newKey({ expiresAt: new Date(Date.now() + 60_000) });
  const other = await ledger.newOrganization('Other');
  const foreign = await ledger.newKey({}, other.owner);
  done(await ledger.keys.deactivate(other.owner, { id: foreign.keyId }));
  const deleted = await ledger.newKey({ name: 'Short-lived' });
  done(await ledger.keys.delete(ledger.owner, { id: deleted.keyId, confirmName: 'Short-lived' }));
  const renewed = await ledger.newKey();
  done(await ledger.keys.regenerate(ledger.owner, { id: renewed.keyId }));
  done(await ledger.keys.deactivate(ledger.owner, { id: renewed.keyId }));
  const exhausted = await ledger.newKey({ quotas: { total: 1 } });
  await verify(exhausted.secret);

  expect(await verify(inactive.secret)).toMatchObject({ valid: false, code: 'INACTIVE', message: 'Inactive API Key', key: null });
  await clock.advance(60_000);
  expect(await verify(expired.secret)).toMatchObject({ valid: false, code: 'EXPIRED', message: 'Expired API Key', key: null });
  expect(await verify(exhausted.secret)).toMatchObject({ code: 'QUOTA_EXCEEDED' });

  for (const wrong of [inactive, expired, exhausted].map(({ secret }) => withAnotherSecret(secret)))
    expect(await verify(wrong)).toMatchObject(INVALID);
  for (const gone of [foreign, deleted, renewed]) expect(await verify(gone.secret)).toMatchObject(INVALID);
});
