import { z } from 'zod';

import { parseSha256 } from '../domain/foreign-key.ts';
import { foldName } from '../projections/key-row.ts';
import { createKeySchema, idempotencyKeySchema } from './key-input.ts';

/** Keys in one import. */
export const MAX_IMPORTED_KEYS = 100;

const shown = (longest: number) =>
  z
    .string()
    .regex(/^[\x21-\x7e]*$/, 'give printable ASCII characters without spaces')
    .max(longest, `give ${longest} characters at most: what is shown of a secret may not give it away`)
    .nullish()
    .transform((value) => value ?? '');

const { organizationId: _organization, personal: _personal, idempotencyKey: _key, type, ...settings } = createKeySchema.shape;

/** One key of `importApiKeys` and of a line of `keyledger import`; what is left out is as with `createApiKey`. */
export const importedKeySchema = z.strictObject({
  ...settings,
  type: type.nullish().transform((value) => value ?? ('SECRET' as const)),
  hash: z.string().transform((text, context) => {
    const hash = parseSha256(text.trim());
    if (hash !== null) return hash.toString('hex');
    context.addIssue({
      code: 'custom',
      message: "give the SHA-256 of the key's whole text, as 64 hex digits or as base64 or base64url of 32 bytes",
    });
    return z.NEVER;
  }),
  ownerId: z
    .uuid('give the id of a member')
    .nullish()
    .transform((value) => value ?? null),
  start: shown(12),
  last4: shown(4),
  enabled: z
    .boolean()
    .nullish()
    .transform((value) => value ?? true),
});
export type ImportedKey = z.output<typeof importedKeySchema>;

export const importKeysSchema = z
  .strictObject({
    organizationId: z.uuid(),
    keys: z
      .array(importedKeySchema)
      .min(1, 'give at least one key')
      .max(MAX_IMPORTED_KEYS, `give ${MAX_IMPORTED_KEYS} keys at most; import more of them in several requests`),
    idempotencyKey: idempotencyKeySchema,
  })
  .superRefine(({ keys }, context) => {
    const names = new Set<string>();
    const hashes = new Set<string>();
    for (const [index, { name, hash }] of keys.entries()) {
      if (names.has(foldName(name)))
        context.addIssue({ code: 'custom', path: ['keys', index, 'name'], message: 'two keys of this import have this name' });
      if (hashes.has(hash))
        context.addIssue({ code: 'custom', path: ['keys', index, 'hash'], message: 'two keys of this import have this hash' });
      names.add(foldName(name));
      hashes.add(hash);
    }
  });
