import type { InputFieldMap, ObjectFieldsShape } from '@pothos/core';

import type { KeyResult } from '../commands/key-commands.ts';
import type { Done } from '../ledger/run-command.ts';
import type { Builder, SchemaTypes } from './builder.ts';
import { actorOf, type GraphqlContext } from './context.ts';
import type { Enums } from './enums.ts';
import { encodeGlobalId } from './global-id.ts';
import { loadKeys, type KeyRow } from './key-reading.ts';
import { addMutation, type RefusalTypes } from './mutation-result.ts';
import type { TypeRefs } from './type-refs.ts';

type Types = PothosSchemaTypes.ExtendDefaultTypes<SchemaTypes>;
type KeyDone = Done<KeyResult>;
type InputFields = PothosSchemaTypes.InputFieldBuilder<Types, 'InputObject'>;

const WRITERS = ['keys:write', 'keys:write:personal'] as const;

/** The inputs that other mutations on keys take too. */
export type KeyInputs = ReturnType<typeof addApiKeyMutations>;

export function addApiKeyMutations(builder: Builder, enums: Enums, types: TypeRefs, refusals: RefusalTypes) {
  const quotas = builder.inputType('QuotasInput', {
    description: 'Caps on requests, whole numbers; null is no cap. Rolling windows of 24 hours, 7 days and 30 days.',
    fields: (t) => ({ total: t.float(), daily: t.float(), weekly: t.float(), monthly: t.float() }),
  });
  const limits = builder.inputType('LimitsInput', {
    description: 'Caps in any minute, whole numbers; null is no cap.',
    fields: (t) => ({ requestsPerMinute: t.float(), tokensPerMinute: t.float() }),
  });
  const settings = (t: InputFields): InputFieldMap => ({
    category: t.string({ description: 'Such as production, development or staging; by default production.' }),
    permissions: t.stringList({ description: 'A PUBLIC key carries only those that the settings of the organization allow.' }),
    expiresAt: t.field({ type: 'DateTime' }),
    profileId: t.id({ description: 'A profile of the organization.' }),
    metadata: t.field({ type: 'JSON', description: 'An object of 16 KiB at most.' }),
    ipAllowlist: t.stringList({ description: 'Addresses and CIDR ranges of end clients.' }),
    allowedOrigins: t.stringList(),
    quotas: t.field({ type: quotas }),
    limits: t.field({ type: limits }),
    rotateEveryDays: t.int(),
  });
  const changed: ObjectFieldsShape<Types, KeyDone> = (t) => ({
    apiKey: t.field({ type: types.apiKey, resolve: ({ result }, _args, context) => writtenKey(context, result.keyId) }),
  });
  const withSecret: ObjectFieldsShape<Types, KeyDone> = (t) => ({
    ...changed(t),
    secret: t.string({
      nullable: true,
      description: 'The key, shown this once; null in a replayed answer after an hour.',
      resolve: (done) => done.secret?.reveal() ?? null,
    }),
  });
  const id = (t: InputFields) => ({ id: t.id({ required: true }) });

  addMutation<KeyDone>(builder, refusals, {
    name: 'createApiKey',
    description: 'Only who manages keys creates team keys; members create personal ones.',
    permissions: WRITERS,
    input: (t) => ({
      organizationId: t.id({ required: true }),
      name: t.string({ required: true, description: '3 to 50 characters, unique among the keys of the organization.' }),
      type: t.field({ type: enums.keyType, required: true }),
      personal: t.boolean({ description: 'A key of your own. Not while you belong to a team.' }),
      ...settings(t),
    }),
    ids: { organizationId: 'Organization', profileId: 'Profile' },
    refusals: [
      'INVALID_INPUT',
      'NOT_FOUND',
      'NAME_TAKEN',
      'PERMISSION_NOT_PUBLIC',
      'KEY_ARCHIVED',
      'INSUFFICIENT_BALANCE',
      'IDEMPOTENCY_CONFLICT',
    ],
    payload: withSecret,
    run: (actor, input, { deps }) => deps.keys.create(actor, input),
  });
  addMutation<KeyDone>(builder, refusals, {
    name: 'updateApiKey',
    description:
      'What is left out stays; null clears `expiresAt`, `profileId`, `rotateEveryDays`, `quotas` and `limits`; the last two are replaced whole.',
    permissions: WRITERS,
    input: (t) => ({ ...id(t), name: t.string(), ...settings(t) }),
    ids: { id: 'ApiKey', profileId: 'Profile' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'NAME_TAKEN', 'PERMISSION_NOT_PUBLIC', 'KEY_DELETED', 'IDEMPOTENCY_CONFLICT'],
    payload: changed,
    run: (actor, input, { deps }) => deps.keys.update(actor, input),
  });
  addMutation<KeyDone>(builder, refusals, {
    name: 'deactivateApiKey',
    description: 'No verification that starts after the answer passes, on any server.',
    permissions: WRITERS,
    input: id,
    ids: { id: 'ApiKey' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'KEY_DELETED', 'IDEMPOTENCY_CONFLICT'],
    payload: changed,
    run: (actor, input, { deps }) => deps.keys.deactivate(actor, input),
  });
  addMutation<KeyDone>(builder, refusals, {
    name: 'activateApiKey',
    description: 'Lets a deactivated key pass again.',
    permissions: WRITERS,
    input: id,
    ids: { id: 'ApiKey' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'KEY_EXPIRED', 'KEY_ARCHIVED', 'KEY_DELETED', 'IDEMPOTENCY_CONFLICT'],
    payload: changed,
    run: (actor, input, { deps }) => deps.keys.activate(actor, input),
  });
  addMutation<KeyDone>(builder, refusals, {
    name: 'regenerateApiKey',
    description: 'A new secret for the same key. The old one stops at once, or at `overlapUntil`.',
    permissions: WRITERS,
    input: (t) => ({ ...id(t), overlapUntil: t.field({ type: 'DateTime' }) }),
    ids: { id: 'ApiKey' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'KEY_EXPIRED', 'KEY_DELETED', 'IDEMPOTENCY_CONFLICT'],
    payload: withSecret,
    run: (actor, input, { deps }) => deps.keys.regenerate(actor, input),
  });
  addMutation<KeyDone>(builder, refusals, {
    name: 'deleteApiKey',
    description:
      'Permanent. Its name becomes free; its history stays readable. The settings of the organization may keep keys that were used from being deleted.',
    permissions: WRITERS,
    input: (t) => ({ ...id(t), confirmName: t.string({ required: true, description: 'The exact name of the key.' }) }),
    ids: { id: 'ApiKey' },
    refusals: ['INVALID_INPUT', 'NOT_FOUND', 'KEY_DELETED', 'KEY_WAS_USED', 'CONFIRMATION_MISMATCH', 'IDEMPOTENCY_CONFLICT'],
    payload: (t) => ({
      deletedId: t.id({ resolve: ({ result }) => encodeGlobalId('ApiKey', result.keyId) }),
    }),
    run: (actor, input, { deps }) => deps.keys.delete(actor, input),
  });
  return { quotas, limits };
}

/** What the caller has just written it is shown, whether or not it may read other keys: a secret must not get lost over that. */
async function writtenKey(context: GraphqlContext, keyId: string): Promise<KeyRow> {
  const [key] = await writtenKeys(context, [keyId]);
  if (key === undefined) throw new Error('The key that a mutation has just written can not be read.');
  return key;
}

/** The same for several, in their order. */
export async function writtenKeys(context: GraphqlContext, keyIds: readonly string[]): Promise<KeyRow[]> {
  const keys = await loadKeys(context.deps.database.kysely, actorOf(context), keyIds);
  return keys.map((key) => {
    if (key === null) throw new Error('A key that a mutation has just written can not be read.');
    return key;
  });
}
