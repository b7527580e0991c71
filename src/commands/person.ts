import { sql } from 'kysely';
import { z } from 'zod';

import type { Effect } from '../ledger/append.ts';

/** A name of an organization or of a person. */
export const titleSchema = z
  .string()
  .transform((text) => text.normalize('NFC').trim())
  .refine((text) => text.length >= 1 && text.length <= 100 && !/\p{Cc}|\p{Cs}/u.test(text), 'give 1 to 100 characters');

/** What may be told of a person; null for what is not told. */
export const personFields = {
  name: titleSchema.nullish().transform((value) => value ?? null),
  email: z
    .email('give an e-mail address')
    .max(254)
    .nullish()
    .transform((value) => value ?? null),
  oidcSubject: z
    .string()
    .regex(/^[\x20-\x7e]{1,255}$/, "give the 'sub' as the OIDC provider sends it: 1 to 255 ASCII characters")
    .nullish()
    .transform((value) => value ?? null),
};

export type Person = { readonly name: string | null; readonly email: string | null; readonly oidcSubject: string | null };

/** Keeps who a member is, outside the log, so that it can be erased. No row where nothing is told. */
export function personEffect(organizationId: string, memberId: string, person: Person): readonly Effect[] {
  if (person.name === null && person.email === null && person.oidcSubject === null) return [];
  const statement = sql`
    INSERT INTO people (organization_id, member_id, name, email, oidc_subject)
    SELECT ${organizationId}::uuid, ${memberId}::uuid, ${person.name}, ${person.email}, ${person.oidcSubject} FROM appended`;
  return [{ name: 'new_person', statement }];
}
