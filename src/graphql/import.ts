import type { ImportResult } from '../commands/import-commands.ts';
import { MAX_IMPORTED_KEYS } from '../commands/import-input.ts';
import type { Done } from '../ledger/run-command.ts';
import { writtenKeys, type KeyInputs } from './api-key-mutations.ts';
import type { Builder } from './builder.ts';
import type { Enums } from './enums.ts';
import { addMutation, type RefusalTypes } from './mutation-result.ts';
import type { TypeRefs } from './type-refs.ts';

type ImportDone = Done<ImportResult>;
type Parts = { readonly enums: Enums; readonly types: TypeRefs; readonly refusals: RefusalTypes; readonly keyInputs: KeyInputs };

/** `importApiKeys`: keys whose secrets were made by another product. */
export function addImport(builder: Builder, { enums, types, refusals, keyInputs }: Parts): void {
  const imported = builder.inputType('ImportedApiKeyInput', {
    description: 'A key whose secret was made elsewhere; see docs/migrating.md.',
    fields: (t) => ({
      name: t.string({ required: true, description: '3 to 50 characters, unique among the keys of the organization.' }),
      hash: t.string({
        required: true,
        description: "SHA-256 of the key's whole text as the client presents it: 64 hex digits, or base64 or base64url of 32 bytes.",
      }),
      start: t.string({ description: 'What may be shown of its beginning, 12 characters at most.' }),
      last4: t.string({ description: 'What may be shown of its end, 4 characters at most.' }),
      type: t.field({ type: enums.keyType, description: 'SECRET where it is left out.' }),
      enabled: t.boolean({ description: 'False: it comes in deactivated.' }),
      ownerId: t.id({ description: 'The member whose personal key it is; null or left out: a team key. Not while they belong to a team.' }),
      category: t.string(),
      permissions: t.stringList(),
      expiresAt: t.field({ type: 'DateTime' }),
      profileId: t.id({ description: 'A profile of the organization.' }),
      metadata: t.field({ type: 'JSON' }),
      ipAllowlist: t.stringList(),
      allowedOrigins: t.stringList(),
      quotas: t.field({ type: keyInputs.quotas }),
      limits: t.field({ type: keyInputs.limits }),
      rotateEveryDays: t.int(),
    }),
  });
  addMutation<ImportDone>(builder, refusals, {
    name: 'importApiKeys',
    description: `Imports up to ${MAX_IMPORTED_KEYS} keys by the SHA-256 of their secrets, all or none: clients go on with the secrets that they have. At its first use a key gets verifiers of our own. Each counts as a key operation.`,
    permissions: ['keys:write'],
    input: (t) => ({ organizationId: t.id({ required: true }), keys: t.field({ type: [imported], required: true }) }),
    ids: { organizationId: 'Organization', 'keys.*.profileId': 'Profile', 'keys.*.ownerId': 'Member' },
    refusals: [
      'INVALID_INPUT',
      'NOT_FOUND',
      'NAME_TAKEN',
      'ALREADY_IMPORTED',
      'PERMISSION_NOT_PUBLIC',
      'KEY_ARCHIVED',
      'INSUFFICIENT_BALANCE',
      'IDEMPOTENCY_CONFLICT',
    ],
    payload: (t) => ({
      apiKeys: t.field({
        type: [types.apiKey],
        description: 'In the order of the input.',
        resolve: ({ result }, _args, context) => writtenKeys(context, result.keyIds),
      }),
    }),
    run: (actor, input, { deps }) => deps.imports.importKeys(actor, input),
  });
}
