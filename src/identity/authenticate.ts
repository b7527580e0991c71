import { hash } from 'node:crypto';
import DataLoader from 'dataloader';
import { sql, type Kysely } from 'kysely';

import type { Actor } from '../domain/actor.ts';
import { isOperatorPermission, isPermission, permissionsOf, ROLES, type Permission, type Role } from '../domain/permissions.ts';
import type { Tables } from '../postgres/tables.ts';
import { accessTokenHash, looksLikeJwt } from './access-token.ts';
import type { OidcIdentity, OidcVerifier } from './oidc.ts';

/** Who stands behind an `Authorization` header. `refused`: credentials were given and are no good; `unavailable`: they could not be checked. */
export type Authentication =
  | { readonly kind: 'actor'; readonly actor: Actor }
  | { readonly kind: 'anonymous' }
  | { readonly kind: 'refused'; readonly message: string }
  | { readonly kind: 'unavailable'; readonly message: string };

export type Authenticate = (authorization: string | undefined) => Promise<Authentication>;

const MAX_CREDENTIAL_LENGTH = 8192;
const MAX_LOOKED_UP = 500;
const REFUSED: Authentication = { kind: 'refused', message: 'The access token is unknown, expired or revoked.' };

/** Reads the credential of an `Authorization: Bearer` header; undefined where there is none in that form. */
export function bearerToken(authorization: string | undefined): string | undefined {
  const match = authorization === undefined ? null : /^Bearer +([\x21-\x7e]+) *$/i.exec(authorization);
  return match?.[1];
}

/** Checks access tokens against the database at each call, so that a revocation holds at once, and JWTs against the OIDC provider where one is configured. */
export function createAuthenticate({ db, oidc }: { readonly db: Kysely<Tables>; readonly oidc: OidcVerifier | null }): Authenticate {
  const tokens = createTokenLoader(db);
  return async (authorization) => {
    if (authorization === undefined) return { kind: 'anonymous' };
    const token = bearerToken(authorization);
    if (token === undefined || token.length > MAX_CREDENTIAL_LENGTH) {
      return { kind: 'refused', message: "The Authorization header must read 'Bearer <access token>'." };
    }
    const known = actorOf(await tokens.load(accessTokenHash(token)));
    if (known.kind === 'actor' || oidc === null || !looksLikeJwt(token)) return known;
    const identity = await oidc.verify(token);
    if (identity.ok) return memberOfJwt(db, identity);
    return identity.kind === 'unavailable'
      ? { kind: 'unavailable', message: 'The identity provider can not be reached; try again.' }
      : REFUSED;
  };
}

type TokenRow = {
  readonly id: string;
  readonly token_hash: Buffer;
  readonly organization_id: string;
  readonly member_id: string | null;
  readonly permissions: readonly string[] | null;
  readonly expires_at: Date | null;
  readonly role: Role | null;
};

/**
 * Looks tokens up in the database, those that are asked for in one turn of the event loop by one statement. Nothing is kept: each answer is younger than its
 * question.
 */
function createTokenLoader(db: Kysely<Tables>): DataLoader<string, TokenRow | undefined> {
  async function load(hashes: readonly string[]): Promise<readonly (TokenRow | undefined)[]> {
    const rows = await db
      .selectFrom('access_tokens as t')
      .leftJoin('members as m', (join) =>
        join.onRef('m.organization_id', '=', 't.organization_id').onRef('m.id', '=', 't.member_id').on('m.removed_at', 'is', null),
      )
      .select(['t.id', 't.token_hash', 't.organization_id', 't.member_id', 't.permissions', 't.expires_at', 'm.role'])
      .where('t.token_hash', '=', sql<Buffer>`ANY(ARRAY(SELECT decode(h, 'hex') FROM unnest(${hashes}::text[]) AS h))`)
      .where('t.revoked_at', 'is', null)
      .where((where) => where.or([where('t.expires_at', 'is', null), where('t.expires_at', '>', where.fn<Date>('ledger_now'))]))
      .execute();
    const byHash = new Map(rows.map((row) => [row.token_hash.toString('hex'), row]));
    return hashes.map((tokenHash) => byHash.get(tokenHash));
  }
  return new DataLoader(load, { cache: false, maxBatchSize: MAX_LOOKED_UP, batchScheduleFn: (dispatch) => void setImmediate(dispatch) });
}

function actorOf(row: TokenRow | undefined): Authentication {
  if (row === undefined) return REFUSED;
  const granted = row.permissions?.filter(isPermission) ?? null;
  const common = { organizationId: row.organization_id, tokenId: row.id, expiresAt: row.expires_at };
  if (row.member_id === null) {
    return { kind: 'actor', actor: { kind: 'service', id: `service:${row.id}`, role: null, permissions: new Set(granted), ...common } };
  }
  if (row.role === null) return REFUSED; // the member has left
  return {
    kind: 'actor',
    actor: {
      kind: 'member',
      id: `member:${row.member_id}`,
      memberId: row.member_id,
      role: row.role,
      permissions: reach(row.role, granted),
      ...common,
    },
  };
}

/** A member's token with permissions of its own carries those of them that the member's role still has. */
function reach(role: Role, granted: readonly Permission[] | null): ReadonlySet<Permission> {
  const ofRole = new Set(permissionsOf(role));
  if (granted === null) return ofRole;
  return new Set(granted.filter((permission) => ofRole.has(permission) || isOperatorPermission(permission)));
}

/**
 * The organization claim holds our organization's id: names are not unique. A JWT's subject is the member who was added with that `oidcSubject`, with the role that the ledger has for them. Where the provider sends a role it
 * stands for the person's, member or not; a subject that is no member acts under an id derived from it, so that the log holds no name.
 */
async function memberOfJwt(db: Kysely<Tables>, identity: OidcIdentity): Promise<Authentication> {
  const organization = await db
    .selectFrom('organizations as o')
    .leftJoin('people as p', (join) => join.onRef('p.organization_id', '=', 'o.id').on('p.oidc_subject', '=', identity.subject))
    .leftJoin('members as m', (join) =>
      join.onRef('m.organization_id', '=', 'o.id').onRef('m.id', '=', 'p.member_id').on('m.removed_at', 'is', null),
    )
    .select(['o.id', 'm.id as member_id', 'm.role'])
    .where((where) => where(where.cast<string>('o.id', 'text'), '=', identity.organization.toLowerCase()))
    .executeTakeFirst();
  if (organization === undefined) return { kind: 'refused', message: 'The organization that the token names does not exist here.' };
  const role = identity.role === null ? organization.role : (ROLES.find((known) => known === identity.role?.toUpperCase()) ?? null);
  if (role === null)
    return { kind: 'refused', message: 'The token gives no role of this service, and its subject is no member of the organization.' };
  const memberId = organization.member_id ?? derivedId(identity.subject);
  return {
    kind: 'actor',
    actor: {
      kind: 'member',
      id: `member:${memberId}`,
      memberId,
      organizationId: organization.id,
      role,
      permissions: new Set(permissionsOf(role)),
      tokenId: null,
      expiresAt: identity.expiresAt,
    },
  };
}

/** A UUID (version 8, RFC 9562) from a subject, the same each time. */
function derivedId(subject: string): string {
  const digest = hash('sha256', `keyledger/oidc/${subject}`, 'hex');
  return `${digest.slice(0, 8)}-${digest.slice(8, 12)}-8${digest.slice(13, 16)}-8${digest.slice(17, 20)}-${digest.slice(20, 32)}`;
}
