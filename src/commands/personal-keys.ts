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
  const [person] = await loadPersons(db, [personId]);
  if (person === undefined) throw new Error('A person who was asked for was not loaded.');
  return person;
}

/** In the order of the ids; who has no history yet is there without one. */
async function loadPersons(db: Kysely<Tables>, personIds: readonly string[]): Promise<readonly LoadedPerson[]> {
  const rows = await db
    .selectFrom('events')
    .select(['stream', 'organization_id', 'type', 'data', 'version'])
    .where('stream', '=', sql<string>`ANY(${personIds.map(streamOf.person)}::text[])`)
    .orderBy('stream')
    .orderBy('version')
    .execute();
  const histories = Map.groupBy(rows, (row) => row.stream);
  return personIds.map((personId) => {
    const events = histories.get(streamOf.person(personId)) ?? [];
    const person = events.reduce(
      (state, row) => evolvePerson(state, parseEvent.person(row.type, row.data), row.organization_id),
      NEW_PERSON,
    );
    return { personId, person, version: events.at(-1)?.version ?? 0 };
  });
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

type Existing = Exclude<OrganizationState, { kind: 'absent' }>;
type Membership = { readonly before: OrganizationState; readonly after: Existing };

export type Followed = { readonly streams: readonly StreamAppend[]; readonly effects: readonly Effect[] };

/**
 * What an organization's decided events mean for the personal keys of the members whom they are about: what is to be appended, in the same statement, to the histories of
 * these persons and of their keys, in whatever organization they are. There it is recorded as the system's: see `append`.
 */
export async function followMembers(
  db: Kysely<Tables>,
  organization: Membership,
  events: readonly OrganizationEvent[],
  now: Date,
): Promise<Followed> {
  const { organizationId } = organization.after;
  const moves = events.flatMap((event) => movesOf(event, organization));
  if (moves.length === 0) return { streams: [], effects: [] };
  // An organization that becomes a team moves all of its members at once: each kind of history is read in one go.
  const persons = await loadPersons(
    db,
    moves.map(({ personId }) => personId),
  );
  const moved = persons.map(({ personId, person, version }, index) => {
    const event = moves[index]?.event;
    if (event === undefined) throw new Error('There are more persons than moves.');
    const stream: StreamAppend = { organizationId, stream: streamOf.person(personId), version, events: [event] };
    return { stream, next: evolvePerson(person, event, organizationId) };
  });
  const streams = moved.map(({ stream }) => stream);
  const archived: ArchivedRow[] = [];
  const owners = new Map(moved.flatMap(({ next }) => next.keys.map((key) => [key.keyId, next] as const)));
  for (const key of await loadPersonalKeys(
    db,
    moved.flatMap(({ next }) => next.keys),
  )) {
    const reason = archiveReason(owners.get(key.keyId) ?? NEW_PERSON, key);
    const decided = decideKey(key.state, reason === null ? { kind: 'restore' } : { kind: 'archive', reason }, now);
    if (isRefusal(decided)) throw new Error(`The personal key ${key.keyId} could not follow its owner: ${decided.message}`);
    if (decided.length === 0) continue;
    streams.push({ organizationId: key.organizationId, stream: streamOf.key(key.keyId), version: key.version, events: decided });
    archived.push({ keyId: key.keyId, version: key.version + decided.length, archived: reason !== null });
  }
  return { streams, effects: archived.length === 0 ? [] : [archiveRows(archived)] };
}

type Move = { readonly personId: string; readonly event: PersonEvent };

/** No person moves twice by one decision: somebody is a member of an organization once. */
function movesOf(event: OrganizationEvent, { before, after }: Membership): readonly Move[] {
  switch (event.type) {
    case 'MemberAdded': {
      const { memberId } = event.data;
      return after.team ? [{ personId: personIn(after, memberId), event: { type: 'TeamJoined', data: { memberId } } }] : [];
    }
    case 'MemberRemoved': {
      const { memberId } = event.data;
      return before.kind === 'absent'
        ? []
        : [{ personId: personIn(before, memberId), event: { type: 'MembershipEnded', data: { memberId } } }];
    }
    case 'OrganizationTeamChanged': {
      const type = event.data.team ? 'TeamJoined' : 'TeamLeft';
      return [...after.members.keys()].map((memberId) => ({ personId: personIn(after, memberId), event: { type, data: { memberId } } }));
    }
    case 'OrganizationCreated':
    case 'OrganizationRenamed':
    case 'PlanChanged':
    case 'BalanceEnabled':
    case 'BalanceDisabled':
    case 'FundsAdded':
    case 'OrganizationSettingsChanged':
    case 'MemberRoleChanged':
      return [];
  }
  return event satisfies never;
}

function personIn({ persons }: Existing, memberId: string): string {
  return persons.get(memberId) ?? memberId;
}

type ArchivedRow = { readonly keyId: string; readonly version: number; readonly archived: boolean };
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

function archiveRows(keys: readonly ArchivedRow[]): Effect {
  const statement = sql`
    UPDATE api_keys SET archived = f.archived, version = f.version
    FROM appended, unnest(${keys.map((key) => key.keyId)}::uuid[], ${keys.map((key) => key.archived)}::boolean[], ${keys.map((key) => key.version)}::integer[])
      AS f (id, archived, version)
    WHERE api_keys.id = f.id`;
  return { name: 'archived_keys', statement };
}
