import { describe, expect, it } from 'vitest';

import { ABSENT_KEY, decideKey, evolveKey, keyStatus, type KeyCommand, type KeyState } from '../../src/domain/api-key.ts';
import type { KeyEvent, KeySettings } from '../../src/domain/event.ts';

const NOW = new Date('2026-06-01T12:00:00.000Z');
const LATER = '2026-07-01T00:00:00.000Z';
const EARLIER = '2026-05-01T00:00:00.000Z';
const SECRET = { lookupId: 'aaaaaaaaaaaaaaaa', masked: 'sk_live_aaaa...zzzz', verifierFingerprint: '00' };
const SECOND = { lookupId: 'bbbbbbbbbbbbbbbb', masked: 'sk_live_bbbb...yyyy', verifierFingerprint: '11' };
const SETTINGS: KeySettings = {
  name: 'Billing',
  category: 'production',
  permissions: ['read'],
  expiresAt: null,
  profileId: null,
  metadata: {},
  ipAllowlist: [],
  allowedOrigins: [],
  quotas: { total: null, daily: null, weekly: null, monthly: null },
  limits: { requestsPerMinute: null, tokensPerMinute: null },
  rotateEveryDays: null,
};
const create = (settings: Partial<KeySettings> = {}): KeyCommand => ({
  kind: 'create',
  keyId: '01890000-0000-7000-8000-000000000001',
  number: 1,
  type: 'SECRET',
  ownerId: null,
  settings: { ...SETTINGS, ...settings },
  secret: SECRET,
});
const fold = (events: readonly KeyEvent[]): KeyState => events.reduce(evolveKey, ABSENT_KEY);
const given = (...commands: readonly KeyCommand[]): readonly KeyEvent[] =>
  commands.reduce<readonly KeyEvent[]>((events, command) => {
    const decided = decideKey(fold(events), command, NOW);
    if (!Array.isArray(decided)) throw new Error(`given ${command.kind} was refused`);
    return [...events, ...(decided as readonly KeyEvent[])];
  }, []);
const when = (events: readonly KeyEvent[], command: KeyCommand, now = NOW) => decideKey(fold(events), command, now);

describe('a key', () => {
  it('is active once created', () => {
    const state = fold(given(create()));
    expect(state).toMatchObject({ kind: 'active', number: 1, settings: SETTINGS, secret: SECRET });
    expect(state.kind !== 'absent' && keyStatus(state, NOW)).toBe('ACTIVE');
  });

  it('is not created with an expiry in the past', () => {
    expect(when([], create({ expiresAt: EARLIER }))).toMatchObject({ code: 'INVALID_INPUT', field: 'expiresAt' });
  });

  it('is deactivated and activated, and stays as it is where it already is so', () => {
    const inactive = given(create(), { kind: 'deactivate' });
    expect(inactive.at(-1)).toEqual({ type: 'Deactivated', data: {} });
    expect(when(inactive, { kind: 'deactivate' })).toEqual([]);
    expect(when(inactive, { kind: 'activate' })).toEqual([{ type: 'Activated', data: {} }]);
    expect(when(given(create()), { kind: 'activate' })).toEqual([]);
  });

  it('2.4 records only those settings of an update that change', () => {
    const key = given(create());
    expect(when(key, { kind: 'update', changes: { name: 'Billing', category: 'staging' } })).toEqual([
      { type: 'Updated', data: { category: 'staging' } },
    ]);
    expect(when(key, { kind: 'update', changes: { permissions: ['read'] } })).toEqual([]);
    expect(when(key, { kind: 'update', changes: { expiresAt: EARLIER } })).toMatchObject({ code: 'INVALID_INPUT', field: 'expiresAt' });
  });

  it('is EXPIRED from the moment itself on, and says so in the log once', () => {
    const key = given(create({ expiresAt: LATER }));
    const state = fold(key);
    if (state.kind === 'absent') throw new Error('no key');
    expect(keyStatus(state, new Date(Date.parse(LATER) - 1))).toBe('ACTIVE');
    expect(keyStatus(state, new Date(LATER))).toBe('EXPIRED');
    expect(when(key, { kind: 'expire' }, NOW)).toEqual([]);
    const expired = when(key, { kind: 'expire' }, new Date(LATER)) as readonly KeyEvent[];
    expect(expired).toEqual([{ type: 'Expired', data: { expiresAt: LATER } }]);
    expect(when([...key, ...expired], { kind: 'expire' }, new Date(LATER))).toEqual([]);
  });

  it('can not be activated or regenerated once expired, but comes back with a later expiry', () => {
    const after = new Date('2026-08-01T00:00:00.000Z');
    const key = given(create({ expiresAt: LATER }), { kind: 'deactivate' });
    expect(when(key, { kind: 'activate' }, after)).toMatchObject({ code: 'KEY_EXPIRED' });
    expect(when(key, { kind: 'regenerate', secret: SECOND, overlapUntil: null }, after)).toMatchObject({ code: 'KEY_EXPIRED' });
    const extended = when(key, { kind: 'update', changes: { expiresAt: '2026-09-01T00:00:00.000Z' } }, after) as readonly KeyEvent[];
    const state = fold([...key, ...extended]);
    expect(state.kind !== 'absent' && keyStatus(state, after)).toBe('INACTIVE');
  });

  it('2.2, 2.3 gets a new secret under the same id; the old one stops at once or at the end of the overlap', () => {
    const stopped = fold(given(create(), { kind: 'regenerate', secret: SECOND, overlapUntil: null }));
    expect(stopped).toMatchObject({ keyId: '01890000-0000-7000-8000-000000000001', secret: SECOND, outdatedSecrets: [] });
    const overlapping = fold(given(create(), { kind: 'regenerate', secret: SECOND, overlapUntil: new Date(LATER) }));
    expect(overlapping).toMatchObject({ secret: SECOND, outdatedSecrets: [{ lookupId: SECRET.lookupId, until: LATER }] });
    expect(when(given(create()), { kind: 'regenerate', secret: SECOND, overlapUntil: new Date(EARLIER) })).toMatchObject({
      field: 'overlapUntil',
    });
  });

  it('2.5 is deleted for good by typing its name', () => {
    expect(when(given(create()), { kind: 'delete', confirmName: 'billing' })).toMatchObject({ code: 'CONFIRMATION_MISMATCH' });
    const deleted = given(create(), { kind: 'delete', confirmName: 'Billing' });
    const after: readonly KeyCommand[] = [
      { kind: 'activate' },
      { kind: 'deactivate' },
      { kind: 'update', changes: { name: 'Again' } },
      { kind: 'regenerate', secret: SECOND, overlapUntil: null },
      { kind: 'delete', confirmName: 'Billing' },
    ];
    for (const command of after) expect(when(deleted, command)).toMatchObject({ code: 'KEY_DELETED' });
  });

  it('that never was is not found', () => {
    expect(when([], { kind: 'activate' })).toMatchObject({ code: 'NOT_FOUND' });
  });

  it('does not come out of a damaged log', () => {
    expect(() => fold([{ type: 'Activated', data: {} }])).toThrow(/damaged/);
  });
});
