import type { KeyEvent, KeySettings } from './event.ts';
import type { KeyType } from './key-format.ts';
import type { ArchiveReason } from './person.ts';
import { refusal, type Refusal } from './refusals.ts';

/** A secret as the domain knows it: what finds it and what it looks like, never what it is. */
export type SecretFacts = { readonly lookupId: string; readonly masked: string; readonly verifierFingerprint: string };

/** What a key is after the events so far. `settings.expiresAt` decides about expiry by itself; `expiredFor` only says that the log has it. */
export type LiveKey = {
  readonly kind: 'active' | 'inactive';
  readonly keyId: string;
  readonly number: number;
  readonly type: KeyType;
  readonly ownerId: string | null;
  /** A personal key is, while its owner belongs to a team and once they have left: refused as inactive, whatever `kind` says. */
  readonly archived: boolean;
  readonly settings: KeySettings;
  readonly secret: SecretFacts;
  /** Secrets before the current one that still work, or did, until their moment. */
  readonly outdatedSecrets: readonly { readonly lookupId: string; readonly until: string }[];
  /** The `expiresAt` for which the Expired event was appended. */
  readonly expiredFor: string | null;
};
export type KeyState = { readonly kind: 'absent' } | LiveKey | (Omit<LiveKey, 'kind'> & { readonly kind: 'deleted' });

export type KeyStatus = 'ACTIVE' | 'INACTIVE' | 'EXPIRED' | 'DELETED';

type NewKey = {
  readonly keyId: string;
  readonly number: number;
  readonly type: KeyType;
  readonly ownerId: string | null;
  readonly settings: KeySettings;
  readonly secret: SecretFacts;
  /** What PUBLIC keys may carry; null: anything. */
  readonly publicPermissions?: readonly string[] | null;
};

export type KeyCommand =
  | ({ readonly kind: 'create' } & NewKey)
  /** The secret was made elsewhere. */
  | ({ readonly kind: 'import' } & NewKey)
  | { readonly kind: 'update'; readonly changes: Partial<KeySettings>; readonly publicPermissions?: readonly string[] | null }
  | { readonly kind: 'activate' }
  | { readonly kind: 'deactivate' }
  | { readonly kind: 'regenerate'; readonly secret: SecretFacts; readonly overlapUntil: Date | null }
  | { readonly kind: 'replace-verifier'; readonly lookupId: string; readonly from: string; readonly to: string }
  | { readonly kind: 'expire' }
  | { readonly kind: 'archive'; readonly reason: ArchiveReason }
  | { readonly kind: 'restore' }
  /** `refuseUsed`: the organization deletes only keys that were never used, and this one was. */
  | { readonly kind: 'delete'; readonly confirmName: string; readonly refuseUsed?: boolean };

export const ABSENT_KEY: KeyState = { kind: 'absent' };

/** What the key is at a moment; EXPIRED holds from `expiresAt` itself on, whatever the log says so far. */
export function keyStatus(state: Exclude<KeyState, { kind: 'absent' }>, now: Date): KeyStatus {
  if (state.kind === 'deleted') return 'DELETED';
  if (hasExpired(state.settings, now)) return 'EXPIRED';
  return state.kind === 'active' && !state.archived ? 'ACTIVE' : 'INACTIVE';
}

function hasExpired(settings: KeySettings, now: Date): boolean {
  return settings.expiresAt !== null && Date.parse(settings.expiresAt) <= now.getTime();
}

/** What follows from something else than a wish for the key; it has no effect on a deleted one. */
const FOLLOWING: ReadonlySet<KeyCommand['kind']> = new Set(['expire', 'archive', 'restore', 'replace-verifier']);

/** Decides a command: the events that follow, none where the key already is as asked, or a refusal. */
export function decideKey(state: KeyState, command: KeyCommand, now: Date): readonly KeyEvent[] | Refusal {
  if (command.kind === 'create' || command.kind === 'import') {
    if (state.kind !== 'absent') throw new Error(`Key ${command.keyId} exists already: ids of new keys must be new.`);
    if (hasExpired(command.settings, now))
      return refusal('INVALID_INPUT', "'expiresAt' lies in the past; give a later moment or none", 'expiresAt');
    const notPublic = refuseNotPublic(command.type, command.settings.permissions, command.publicPermissions ?? null);
    if (notPublic !== null) return notPublic;
    const { kind, publicPermissions: _allowed, settings, secret, ...identity } = command;
    return [{ type: kind === 'create' ? 'KeyCreated' : 'KeyImported', data: { ...identity, ...settings, ...secret } }];
  }
  if (state.kind === 'absent') return refusal('NOT_FOUND', 'There is no such key in your organization', 'id');
  if (state.kind === 'deleted') return FOLLOWING.has(command.kind) ? [] : refusal('KEY_DELETED', undefined, 'id');
  switch (command.kind) {
    case 'update':
      return decideUpdate(state, command.changes, command.publicPermissions ?? null, now);
    case 'activate':
      if (hasExpired(state.settings, now)) return refusal('KEY_EXPIRED');
      if (state.archived) return refusal('KEY_ARCHIVED', undefined, 'id');
      return state.kind === 'active' ? [] : [{ type: 'Activated', data: {} }];
    case 'deactivate':
      return state.kind === 'inactive' ? [] : [{ type: 'Deactivated', data: {} }];
    case 'regenerate':
      if (hasExpired(state.settings, now)) return refusal('KEY_EXPIRED');
      if (command.overlapUntil !== null && command.overlapUntil <= now) {
        return refusal(
          'INVALID_INPUT',
          "'overlapUntil' lies in the past; give a later moment, or none to stop the old secret at once",
          'overlapUntil',
        );
      }
      return [{ type: 'Regenerated', data: { ...command.secret, overlapUntil: command.overlapUntil?.toISOString() ?? null } }];
    case 'replace-verifier': {
      // A secret that was regenerated meanwhile needs none any more.
      const { lookupId, verifierFingerprint } = state.secret;
      if (lookupId !== command.lookupId || verifierFingerprint !== command.from) return [];
      return [{ type: 'VerifierReplaced', data: { lookupId, verifierFingerprint: command.to } }];
    }
    case 'expire':
      if (!hasExpired(state.settings, now) || state.settings.expiresAt === null || state.expiredFor === state.settings.expiresAt) return [];
      return [{ type: 'Expired', data: { expiresAt: state.settings.expiresAt } }];
    case 'archive':
      return state.archived ? [] : [{ type: 'Archived', data: { reason: command.reason } }];
    case 'restore':
      return state.archived ? [{ type: 'Restored', data: {} }] : [];
    case 'delete':
      if (command.confirmName !== state.settings.name) return refusal('CONFIRMATION_MISMATCH', undefined, 'confirmName');
      if (command.refuseUsed === true) return refusal('KEY_WAS_USED', undefined, 'id');
      return [{ type: 'Deleted', data: { name: state.settings.name } }];
  }
  return command satisfies never;
}

function decideUpdate(
  state: LiveKey,
  changes: Partial<KeySettings>,
  publicPermissions: readonly string[] | null,
  now: Date,
): readonly KeyEvent[] | Refusal {
  const changed = Object.fromEntries(
    Object.entries(changes).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(state.settings[name as keyof KeySettings])),
  ) as Partial<KeySettings>;
  if (Object.keys(changed).length === 0) return [];
  if (changed.expiresAt !== undefined && hasExpired({ ...state.settings, ...changed }, now)) {
    return refusal('INVALID_INPUT', "'expiresAt' lies in the past; give a later moment or null, or deactivate the key", 'expiresAt');
  }
  return refuseNotPublic(state.type, changed.permissions ?? [], publicPermissions) ?? [{ type: 'Updated', data: changed }];
}

/** A PUBLIC key is in everybody's hands: it carries what its organization allows such keys and nothing else. */
function refuseNotPublic(type: KeyType, permissions: readonly string[], allowed: readonly string[] | null): Refusal | null {
  const others = type === 'PUBLIC' && allowed !== null ? permissions.filter((permission) => !allowed.includes(permission)) : [];
  if (others.length === 0) return null;
  const may = allowed === null || allowed.length === 0 ? 'none' : allowed.join(', ');
  return refusal(
    'PERMISSION_NOT_PUBLIC',
    `Your organization does not allow PUBLIC keys to carry ${others.join(', ')}; it allows ${may}`,
    'permissions',
  );
}

/** Applies one event. The same function runs live, in replay, in rebuild and in check. */
export function evolveKey(state: KeyState, event: KeyEvent): KeyState {
  if (event.type === 'KeyCreated' || event.type === 'KeyImported') {
    const { keyId, number, type, ownerId, lookupId, masked, verifierFingerprint, ...settings } = event.data;
    return {
      kind: 'active',
      keyId,
      number,
      type,
      ownerId,
      archived: false,
      settings,
      secret: { lookupId, masked, verifierFingerprint },
      outdatedSecrets: [],
      expiredFor: null,
    };
  }
  if (state.kind === 'absent' || state.kind === 'deleted')
    throw new Error(`The log is damaged: ${event.type} for a key that is ${state.kind}.`);
  switch (event.type) {
    case 'Updated':
      return { ...state, settings: { ...state.settings, ...withoutUndefined(event.data) } };
    case 'Activated':
      return { ...state, kind: 'active' };
    case 'Deactivated':
      return { ...state, kind: 'inactive' };
    case 'Regenerated': {
      const { overlapUntil, ...secret } = event.data;
      const outdatedSecrets =
        overlapUntil === null ? [] : [...state.outdatedSecrets, { lookupId: state.secret.lookupId, until: overlapUntil }];
      return { ...state, secret, outdatedSecrets };
    }
    case 'VerifierReplaced':
      return { ...state, secret: { ...state.secret, verifierFingerprint: event.data.verifierFingerprint } };
    case 'Expired':
      return { ...state, expiredFor: event.data.expiresAt };
    case 'Archived':
      return { ...state, archived: true };
    case 'Restored':
      return { ...state, archived: false };
    case 'Deleted':
      return { ...state, kind: 'deleted', outdatedSecrets: [] };
  }
  return event satisfies never;
}

function withoutUndefined(changes: { readonly [Name in keyof KeySettings]?: KeySettings[Name] | undefined }): Partial<KeySettings> {
  return Object.fromEntries(Object.entries(changes).filter(([, value]) => value !== undefined)) as Partial<KeySettings>;
}
