import type { TokenResult } from '../commands/token-commands.ts';
import type { Done } from '../ledger/run-command.ts';
import type { ActorRef } from './actor.ts';
import type { Builder } from './builder.ts';
import { encodeGlobalId } from './global-id.ts';
import { addMutation, type RefusalTypes } from './mutation-result.ts';
import { loadTokens, type TypeRefs } from './type-refs.ts';

type TokenDone = Done<TokenResult>;

export function addAccessToken(builder: Builder, types: TypeRefs, actor: ActorRef, refusals: RefusalTypes): void {
  types.accessToken.implement({
    description: 'Credentials of a member or of a service. The token itself was shown once.',
    fields: (t) => ({
      name: t.exposeString('name', { description: 'What it is for.' }),
      member: t.field({
        type: types.member,
        nullable: true,
        description: "The member that it acts as; null for a service's, and for members who have left.",
        authScopes: { permission: 'members:read' },
        resolve: (token) => (token.member_id === null ? null : `${token.organization_id}:${token.member_id}`),
      }),
      service: t.boolean({ resolve: (token) => token.member_id === null }),
      permissions: t.stringList({
        nullable: true,
        description: "Null: whatever the member's role allows.",
        resolve: (token) => (token.permissions === null ? null : [...token.permissions]),
      }),
      createdAt: t.field({ type: 'DateTime', resolve: (token) => token.issued_at }),
      createdBy: t.field({ type: actor, resolve: (token) => ({ actorId: token.issued_by, organizationId: token.organization_id }) }),
      expiresAt: t.field({ type: 'DateTime', nullable: true, resolve: (token) => token.expires_at }),
      revokedAt: t.field({ type: 'DateTime', nullable: true, resolve: (token) => token.revoked_at }),
    }),
  });

  addMutation<TokenDone>(builder, refusals, {
    name: 'createAccessToken',
    description:
      'With `memberId` it acts as that member, without as a service, which then needs `permissions`. Nobody hands out more than they hold.',
    permissions: ['tokens:write'],
    input: (t) => ({
      organizationId: t.id({ required: true }),
      name: t.string({ required: true, description: 'What it is for, not the name of a person.' }),
      memberId: t.id(),
      permissions: t.stringList(),
      expiresAt: t.field({ type: 'DateTime' }),
    }),
    ids: { organizationId: 'Organization', memberId: 'Member' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'IDEMPOTENCY_CONFLICT'],
    payload: (t) => ({
      secret: t.string({
        nullable: true,
        description: 'The token, shown this once; null in a replayed answer after an hour.',
        resolve: (done) => done.secret?.reveal() ?? null,
      }),
      accessToken: t.field({
        type: types.accessToken,
        resolve: async ({ result }, _args, context) => found(await loadTokens(context, [result.tokenId])),
      }),
    }),
    run: (caller, input, { deps }) => deps.tokens.create(caller, input),
  });
  addMutation<TokenDone>(builder, refusals, {
    name: 'revokeAccessToken',
    description: 'Takes effect at once; what is followed live with it ends.',
    permissions: ['tokens:write'],
    input: (t) => ({ id: t.id({ required: true }) }),
    ids: { id: 'AccessToken' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'IDEMPOTENCY_CONFLICT'],
    payload: (t) => ({
      revokedId: t.id({ resolve: ({ result }) => encodeGlobalId('AccessToken', result.tokenId) }),
    }),
    run: (caller, input, { deps }) => deps.tokens.revoke(caller, input),
  });
}

function found<Row>(rows: readonly (Row | null)[]): Row {
  const row = rows[0];
  if (row === undefined || row === null) throw new Error('What a mutation has just written can not be read.');
  return row;
}
