import { sql, type Kysely } from 'kysely';

import { ABSENT_TOKEN, evolveToken, type TokenState } from '../domain/access-token.ts';
import { ABSENT_KEY, evolveKey, keyStatus, type KeyState } from '../domain/api-key.ts';
import { parseEvent, streamOf, type LifecycleEvent } from '../domain/event.ts';
import { ABSENT_PROFILE, evolveProfile, type ProfileState } from '../domain/profile.ts';
import { ABSENT_ORGANIZATION, evolveOrganization, type OrganizationState } from '../domain/organization.ts';
import { databaseNow } from '../ledger/run-command.ts';
import type { AsOf } from '../ledger/stream.ts';
import type { JsonValue } from '../lib/canonical-json.ts';
import type { Tables } from '../postgres/tables.ts';
import { describeEvent } from './describe-event.ts';

const PAGE = 1000;

export type ReplaySubject = { readonly kind: 'key' | 'organization'; readonly id: string };

/** One event of a timeline, all of it fit for JSON. */
export type ReplayedEvent = {
  readonly position: string;
  readonly at: string;
  readonly type: string;
  readonly stream: string;
  readonly actor: string;
  /** In words. */
  readonly changes: readonly string[];
};

export type Replay = {
  readonly subject: ReplaySubject;
  readonly organizationId: string;
  /** The moment that the state is told for. */
  readonly at: string;
  readonly events: readonly ReplayedEvent[];
  /** Null where the subject did not exist yet. */
  readonly state: JsonValue;
};

/**
 * A key, or an organization with its members, tokens and keys, folded from the log up to a position or moment (both inclusive) with the same `evolve` that
 * decides live. Null where the log has no such subject at all.
 */
export async function replay(db: Kysely<Tables>, subject: ReplaySubject, asOf: AsOf = {}): Promise<Replay | null> {
  const origin = await db
    .selectFrom('events')
    .select('organization_id')
    .where('stream', '=', streamOf[subject.kind](subject.id))
    .limit(1)
    .executeTakeFirst();
  if (origin === undefined) return null;
  const at = await momentOf(db, asOf);
  const states = {
    organization: ABSENT_ORGANIZATION as OrganizationState,
    keys: new Map<string, KeyState>(),
    tokens: new Map<string, TokenState>(),
    profiles: new Map<string, ProfileState>(),
  };
  const events: ReplayedEvent[] = [];
  let after = 0n;
  for (;;) {
    const page = await readPage(db, subject, origin.organization_id, after, asOf);
    for (const row of page) {
      const { event, before } = fold(states, row.stream, row.type, row.data);
      events.push({
        position: String(row.position),
        at: row.recorded_at.toISOString(),
        type: row.type,
        stream: row.stream,
        actor: row.actor,
        changes: describeEvent(event, before),
      });
    }
    const last = page.at(-1);
    if (last === undefined || page.length < PAGE) break;
    after = last.position;
  }
  return { subject, organizationId: origin.organization_id, at: at.toISOString(), events, state: shownState(subject, states, at) };
}

/** Expiry is told for the moment itself; for a position that is when its event was recorded. */
async function momentOf(db: Kysely<Tables>, { position, at }: AsOf): Promise<Date> {
  if (at !== undefined) return at;
  if (position === undefined) return databaseNow(db);
  const { rows } = await sql<{ at: Date | null }>`
    SELECT greatest((SELECT recorded_at FROM events WHERE position <= ${position}::bigint ORDER BY position DESC LIMIT 1),
                    (SELECT recorded_at FROM usage_events WHERE position <= ${position}::bigint ORDER BY position DESC LIMIT 1)) AS at`.execute(
    db,
  );
  return rows[0]?.at ?? new Date(0);
}

function readPage(db: Kysely<Tables>, subject: ReplaySubject, organizationId: string, after: bigint, { position, at }: AsOf) {
  let query = db
    .selectFrom('events')
    .select(['position', 'stream', 'type', 'actor', 'recorded_at', 'data'])
    .where('organization_id', '=', organizationId)
    .where('position', '>', after)
    .orderBy('position')
    .limit(PAGE);
  if (subject.kind === 'key') query = query.where('stream', '=', streamOf.key(subject.id));
  if (position !== undefined) query = query.where('position', '<=', position);
  if (at !== undefined) query = query.where('recorded_at', '<=', at);
  return query.execute();
}

type States = {
  organization: OrganizationState;
  readonly keys: Map<string, KeyState>;
  readonly tokens: Map<string, TokenState>;
  readonly profiles: Map<string, ProfileState>;
};

function fold(
  states: States,
  stream: string,
  type: string,
  data: unknown,
): { readonly event: LifecycleEvent; readonly before: KeyState | null } {
  const kind = stream.slice(0, stream.indexOf(':'));
  if (kind === 'key') {
    const event = parseEvent.key(type, data);
    const before = states.keys.get(stream) ?? ABSENT_KEY;
    states.keys.set(stream, evolveKey(before, event));
    return { event, before };
  }
  if (kind === 'token') {
    const event = parseEvent.token(type, data);
    states.tokens.set(stream, evolveToken(states.tokens.get(stream) ?? ABSENT_TOKEN, event));
    return { event, before: null };
  }
  // Alerts and their rules are told in the timeline; the state of what they watch doesn't hold them.
  if (kind === 'alert') return { event: parseEvent.alert(type, data), before: null };
  if (kind === 'alert-rule') return { event: parseEvent.alertRule(type, data), before: null };
  if (kind === 'person') return { event: parseEvent.person(type, data), before: null };
  if (kind === 'webhook') return { event: parseEvent.webhook(type, data), before: null };
  if (kind === 'profile') {
    const event = parseEvent.profile(type, data);
    states.profiles.set(stream, evolveProfile(states.profiles.get(stream) ?? ABSENT_PROFILE, event));
    return { event, before: null };
  }
  const event = parseEvent.organization(type, data);
  states.organization = evolveOrganization(states.organization, event);
  return { event, before: null };
}

function shownState(subject: ReplaySubject, { organization, keys, tokens, profiles }: States, at: Date): JsonValue {
  if (subject.kind === 'key') {
    const state = keys.get(streamOf.key(subject.id));
    if (state === undefined || state.kind === 'absent') return null;
    const { keyId, type, ownerId, archived, settings, secret, outdatedSecrets } = state;
    return {
      keyId,
      status: keyStatus(state, at),
      type,
      ownerId,
      archived,
      ...settings,
      masked: secret.masked,
      lookupId: secret.lookupId,
      outdatedSecrets: outdatedSecrets.map((old) => ({ ...old })),
    };
  }
  if (organization.kind === 'absent') return null;
  return {
    organizationId: organization.organizationId,
    name: organization.name,
    plan: organization.plan,
    team: organization.team,
    caps: { ...organization.caps },
    fundsMicros: organization.fundsMicros,
    settings: organization.settings,
    members: [...organization.members].map(([id, role]) => ({ id, role })),
    tokens: [...tokens.values()].flatMap((token) =>
      token.kind === 'absent'
        ? []
        : [
            {
              id: token.tokenId,
              name: token.name,
              status: tokenStatus(token, at),
              memberId: token.memberId,
              permissions: token.permissions === null ? null : [...token.permissions],
            },
          ],
    ),
    profiles: [...profiles.values()].flatMap((profile) =>
      profile.kind === 'profile' ? [{ id: profile.profileId, name: profile.name, settings: profile.settings }] : [],
    ),
    keys: [...keys.values()].flatMap((key) =>
      key.kind === 'absent'
        ? []
        : [
            {
              id: key.keyId,
              name: key.settings.name,
              status: keyStatus(key, at),
              type: key.type,
              category: key.settings.category,
              masked: key.secret.masked,
            },
          ],
    ),
  };
}

function tokenStatus(token: Exclude<TokenState, { kind: 'absent' }>, at: Date): string {
  if (token.kind === 'revoked') return 'REVOKED';
  return token.expiresAt !== null && Date.parse(token.expiresAt) <= at.getTime() ? 'EXPIRED' : 'ACTIVE';
}
