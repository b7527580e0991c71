import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { ADDRESS_BLOCKING } from '../../src/admission/admit-batch.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';
import { totalFaults } from '../support/log-invariants.ts';

describe('a request id that was used', () => {
  let ledger: TestLedger;
  beforeAll(async () => {
    ledger = await openTestLedger();
  });
  afterAll(() => ledger.close());

  it('opens nothing to whoever presents another secret with it, and tells nothing', async () => {
    const key = await ledger.newKey({ quotas: { total: 10 } });
    const other = await ledger.newKey();
    const requestId = 'guessed-1';
    const first = await ledger.verify(key.secret, { requestId });
    expect(first).toMatchObject({ code: 'VALID' });
    const wrong = key.secret.slice(0, 24) + other.secret.slice(24);
    for (const presented of ['nonsense', '', wrong]) {
      expect(await ledger.verify(presented, { requestId })).toMatchObject({ code: 'INVALID_KEY', key: null, keyId: null, position: null });
    }
    expect(await ledger.verify(other.secret, { requestId })).toEqual({ kind: 'request-id-taken' });
    expect(await ledger.verify(key.secret, { requestId })).toEqual(first);
    expect(await totalFaults(ledger.db)).toEqual([]);
  });

  it('is answered as before to its own secret, whatever became of the key and the address', async () => {
    const { keyId, secret } = await ledger.newKey({ name: 'Short-lived' });
    const ip = '198.51.100.20';
    const requestId = 'kept-1';
    const first = await ledger.verify(secret, { requestId, ip });
    done(await ledger.keys.delete(ledger.owner, { id: keyId, confirmName: 'Short-lived' }));
    await Promise.all(
      Array.from({ length: ADDRESS_BLOCKING.failures }, (_, index) => ledger.verify(`sk_live_${String(index).padStart(65, '0')}`, { ip })),
    );
    expect(await ledger.verify(secret, { requestId, ip })).toEqual(first);
    expect(await ledger.verify(secret)).toMatchObject({ code: 'INVALID_KEY' });
  });

  it('of another key does not hinder the refusal of a blocked address', async () => {
    const key = await ledger.newKey();
    const other = await ledger.newKey();
    const ip = '198.51.100.21';
    await ledger.verify(key.secret, { requestId: 'taken-1' });
    await Promise.all(
      Array.from({ length: ADDRESS_BLOCKING.failures }, (_, index) => ledger.verify(`sk_live_${String(index).padStart(65, '0')}`, { ip })),
    );
    expect(await ledger.verify(other.secret, { ip, requestId: 'taken-1' })).toMatchObject({ code: 'IP_BLOCKED', position: null });
  });
});
