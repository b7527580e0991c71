import { sql, type Kysely } from 'kysely';

import { ABSENT_KEY, decideKey, evolveKey, type KeyState } from '../domain/api-key.ts';
import { parseEvent, streamOf, type OrganizationEvent, type PersonEvent } from '../domain/event.ts';
import type { OrganizationState } from '../domain/organization.ts';
import { archiveReason, evolvePerson, NEW_PERSON, type ArchiveReason, type PersonalKey, type PersonState } from '../domain/person.ts';
import { isRefusal, refusal, type Refusal } from '../domain/refusals.ts';
import type { Effect, StreamAppend } from '../ledger/append.ts';
import type { Tables } from '../postgres/tables.ts';

type LoadedPerson = { readonly personId: string; readonly person: PersonState; readonly version: number };

/** A person's state with the version of their history. It reaches over organizations: nothing of it may be shown to one of them. */
export async function loadPerson(db: Kysely<Tables>, personId: string): Promise<LoadedPerson> {
  const rows = await db
    .selectFrom('events')
    .select(['organization_id', 'type', 'data', 'version'])
    .where('stream', '=', streamOf.person(personId))
    .orderBy('version')
    .execute();
  const person = rows.reduce((state, row) => evolvePerson(state, parseEvent.person(row.type, row.data), row.organization_id), NEW_PERSON);
  return { personId, person, version: rows.at(-1)?.version ?? 0 };
}

/** The person behind a membership; null where there is no such member, or no more. */
export async function personOf(db: Kysely<Tables>, organizationId: string, memberId: string): Promise<string | null> {
  const row = await db
    .selectFrom('members')
    .select('person_id')
    .where('organization_id', '=', organizationId)
    .where('id', '=', memberId)
    .where('removed_at', 'is', null)
    .executeTakeFirst();
  return row === undefined ? null : (row.person_id ?? memberId);
}

/** A key that can't be made somebody's own now, and why. */
export type Unbindable = { readonly kind: 'unbindable'; readonly keyId: string; readonly reason: 'NO_MEMBER' | ArchiveReason };

/**
 * The events that bind new personal keys to their owners' histories, or the first key that may not be bound now. Right under concurrency: whoever joins a team or leaves
 * writes the same stream, so that one of the two loses on its version and is decided again with the other's outcome.
 */
export async function bindPersonalKeys(
  db: Kysely<Tables>,
  organizationId: string,
  keys: readonly { readonly ownerId: string; readonly keyId: string }[],
): Promise<readonly StreamAppend[] | Unbindable> {
  const streams: StreamAppend[] = [];
  for (const [ownerId, owned] of Map.groupBy(keys, (key) => key.ownerId)) {
    const refused = (reason: Unbindable['reason']): Unbindable => ({ kind: 'unbindable', keyId: owned[0]?.keyId ?? '', reason });
    const personId = await personOf(db, organizationId, ownerId);
    if (personId === null) return refused('NO_MEMBER');
    const { person, version } = await loadPerson(db, personId);
    const reason = archiveReason(person, { ownerId });
    if (reason !== null) return refused(reason);
    const events = owned.map(({ keyId }) => ({ type: 'PersonalKeyAdded', data: { keyId, ownerId } }) as const);
    streams.push({ organizationId, stream: streamOf.person(personId), version, events });
  }
  return streams;
}

export function isUnbindable(bound: readonly StreamAppend[] | Unbindable): bound is Unbindable {
  return 'kind' in bound;
}

/** Why an owner can't create a key of their own; said to themselves. */
export function refuseOwnKey({ reason }: Unbindable): Refusal {
  switch (reason) {
    case 'NO_MEMBER':
      return refusal('INVALID_INPUT', 'Only a member of the organization has personal keys: have yourself added to it', 'personal');
    case 'OWNER_LEFT':
      return refusal('INVALID_INPUT', 'You are no member of the organization any more', 'personal');
    case 'TEAM_JOINED':
      return refusal('KEY_ARCHIVED', undefined, 'personal');
  }
  return reason satisfies never;
}

export type Followed = { readonly streams: readonly StreamAppend[]; readonly effects: readonly Effect[] };

/**
 * What an organization's decided events mean for the personal keys of the members whom they are about: what is to be appended, in the same statement, to the histories of
 * these persons and of their keys, in whatever organization they are. There it is recorded as the system's: see `append`.
 */
export async function followMembers(
  db: Kysely<Tables>,
  organization: { readonly before: OrganizationState; readonly after: Exclude<OrganizationState, { kind: 'absent' }> },
  events: readonly OrganizationEvent[],
  now: Date,
): Promise<Followed> {
  const { before, after } = organization;
  const { organizationId } = after;
  const streams: StreamAppend[] = [];
  const archived: { readonly keyId: string; readonly version: number; readonly archived: boolean }[] = [];
  for (const event of events) {
    const move = moveOf(event, before, after);
    if (move === null) continue;
    const { person, version } = await loadPerson(db, move.personId);
    streams.push({ organizationId, stream: streamOf.person(move.personId), version, events: [move.event] });
    const next = evolvePerson(person, move.event, organizationId);
    for (const key of await loadPersonalKeys(db, next.keys)) {
      const reason = archiveReason(next, key);
      const decided = decideKey(key.state, reason === null ? { kind: 'restore' } : { kind: 'archive', reason }, now);
      if (isRefusal(decided)) throw new Error(`The personal key ${key.keyId} could not follow its owner: ${decided.message}`);
      if (decided.length === 0) continue;
      streams.push({ organizationId: key.organizationId, stream: streamOf.key(key.keyId), version: key.version, events: decided });
      archived.push({ keyId: key.keyId, version: key.version + decided.length, archived: reason !== null });
    }
  }
  return { streams, effects: archived.length === 0 ? [] : [archiveRows(archived)] };
}

function moveOf(
  event: OrganizationEvent,
  before: OrganizationState,
  after: Exclude<OrganizationState, { kind: 'absent' }>,
): { readonly personId: string; readonly event: PersonEvent } | null {
  if (event.type === 'MemberAdded') {
    const { memberId } = event.data;
    return after.team ? { personId: after.persons.get(memberId) ?? memberId, event: { type: 'TeamJoined', data: { memberId } } } : null;
  }
  if (event.type !== 'MemberRemoved' || before.kind === 'absent') return null;
  const { memberId } = event.data;
  return { personId: before.persons.get(memberId) ?? memberId, event: { type: 'MembershipEnded', data: { memberId } } };
}

type LoadedKey = PersonalKey & { readonly state: KeyState; readonly version: number };

/** All at once: somebody may have thousands. */
async function loadPersonalKeys(db: Kysely<Tables>, keys: readonly PersonalKey[]): Promise<readonly LoadedKey[]> {
  if (keys.length === 0) return [];
  const rows = await db
    .selectFrom('events')
    .select(['stream', 'type', 'data', 'version'])
    .where('stream', '=', sql<string>`ANY(${keys.map(({ keyId }) => streamOf.key(keyId))}::text[])`)
    .orderBy('stream')
    .orderBy('version')
    .execute();
  const histories = Map.groupBy(rows, (row) => row.stream);
  return keys.map((key) => {
    const events = histories.get(streamOf.key(key.keyId)) ?? [];
    const state = events.reduce<KeyState>((folded, row) => evolveKey(folded, parseEvent.key(row.type, row.data)), ABSENT_KEY);
    return { ...key, state, version: events.at(-1)?.version ?? 0 };
  });
}

function archiveRows(keys: readonly { readonly keyId: string; readonly version: number; readonly archived: boolean }[]): Effect {
  const statement = sql`
    UPDATE api_keys SET archived = f.archived, version = f.version
    FROM appended, unnest(${keys.map((key) => key.keyId)}::uuid[], ${keys.map((key) => key.archived)}::boolean[], ${keys.map((key) => key.version)}::integer[])
      AS f (id, archived, version)
    WHERE api_keys.id = f.id`;
  return { name: 'archived_keys', statement };
}
