import type { ObjectFieldsShape } from '@pothos/core';

import type { FoundedOrganization } from '../commands/found-organization.ts';
import type { OrganizationResult } from '../commands/organization-commands.ts';
import { PLAN_NAMES } from '../domain/plan.ts';
import type { Done } from '../ledger/run-command.ts';
import type { Builder, SchemaTypes } from './builder.ts';
import { encodeGlobalId } from './global-id.ts';
import { addMutation, type RefusalTypes } from './mutation-result.ts';
import { loadOwnOrganization, type TypeRefs } from './type-refs.ts';

type OrganizationDone = Done<OrganizationResult>;

export function addOrganizationMutations(builder: Builder, types: TypeRefs, refusals: RefusalTypes): void {
  addMutation<Done<FoundedOrganization>>(builder, refusals, {
    name: 'createOrganization',
    description:
      'A further organization with its first owner, and the token with which that owner gets in. No role may do this: a token is given `organizations:create` by name.',
    permissions: ['organizations:create'],
    input: (t) => ({
      name: t.string({ required: true }),
      ownerName: t.string(),
      ownerEmail: t.string(),
      team: t.boolean({
        description: 'Whoever joins it works with its keys: their personal keys, in whatever organization, are archived until they leave.',
      }),
    }),
    refusals: ['INVALID_INPUT', 'IDEMPOTENCY_CONFLICT'],
    payload: (t) => ({
      organizationId: t.id({
        description: 'Global id. You can not look into it: its owner can.',
        resolve: ({ result }) => encodeGlobalId('Organization', result.organizationId),
      }),
      ownerId: t.id({
        nullable: true,
        description: 'Global id of its first member.',
        resolve: ({ result }) => encodeGlobalId('Member', `${result.organizationId}:${result.memberId}`),
      }),
      secret: t.string({
        nullable: true,
        description: "The owner's access token, shown this once; null in a replayed answer after an hour.",
        resolve: ({ secret }) => secret?.reveal() ?? null,
      }),
    }),
    run: (actor, input, { deps }) => deps.organizations.create(actor, input),
  });
  const changed: ObjectFieldsShape<PothosSchemaTypes.ExtendDefaultTypes<SchemaTypes>, OrganizationDone> = (t) => ({
    organization: t.field({ type: types.organization, resolve: (_done, _args, context) => loadOwnOrganization(context) }),
  });
  addMutation<OrganizationDone>(builder, refusals, {
    name: 'renameOrganization',
    description: 'Changes the name alone; ids stay.',
    permissions: ['organization:write'],
    input: (t) => ({ organizationId: t.id({ required: true }), name: t.string({ required: true }) }),
    ids: { organizationId: 'Organization' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'IDEMPOTENCY_CONFLICT'],
    payload: changed,
    run: (actor, input, { deps }) => deps.organizations.rename(actor, input),
  });
  addMutation<OrganizationDone>(builder, refusals, {
    name: 'changeOrganizationTeam',
    description:
      'Makes the organization a team, or a team an organization like any other. The personal keys of all its members, in whatever organization, are archived with the answer, or restored where their owner belongs to no other team.',
    permissions: ['organization:write'],
    input: (t) => ({ organizationId: t.id({ required: true }), team: t.boolean({ required: true }) }),
    ids: { organizationId: 'Organization' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'IDEMPOTENCY_CONFLICT'],
    payload: changed,
    run: (actor, input, { deps }) => deps.organizations.changeTeam(actor, input),
  });
  const caps = builder.inputType('PlanCapsInput', {
    description: 'What was agreed with an ENTERPRISE organization; left out or null: no cap.',
    fields: (t) => ({ requestsPerSecond: t.int(), requestsPerMinute: t.int() }),
  });
  const plan = builder.enumType('Plan', {
    values: PLAN_NAMES,
    description: 'FREE 100, BASIC 1,000 and PRO 10,000 requests a minute over all keys; ENTERPRISE as agreed.',
  });
  addMutation<OrganizationDone>(builder, refusals, {
    name: 'changePlan',
    description: "The plan of any organization, for the product's operator. No role may do this: a token is given `plans:write` by name.",
    permissions: ['plans:write'],
    input: (t) => ({
      organizationId: t.id({ required: true }),
      plan: t.field({ type: plan, required: true }),
      caps: t.field({ type: caps }),
    }),
    ids: { organizationId: 'Organization' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'IDEMPOTENCY_CONFLICT'],
    payload: (t) => ({
      organizationId: t.id({
        description: 'Global id. Only its own members can look into it.',
        resolve: ({ result }) => encodeGlobalId('Organization', result.organizationId),
      }),
    }),
    run: (actor, input, { deps }) => deps.organizations.changePlan(actor, input),
  });
}
