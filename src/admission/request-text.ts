import { z } from 'zod';

import { normalizeIp } from '../lib/ip-address.ts';
import { withoutCredentials } from '../lib/without-credentials.ts';

// The parts that a question and a report of usage have in common. What is left out and what is null mean the same: GraphQL sends null for an absent variable.

/** Text of a request that is kept as it came: no control characters, and nothing that Postgres could not store. */
export function plainText(max: number) {
  return z
    .string(`give text of at most ${max} characters`)
    .max(max, `give at most ${max} characters`)
    .refine((text) => !/\p{Cc}/u.test(text) && text.isWellFormed(), 'leave control characters and lone surrogates out');
}

export const requestIdText = z.string('give text').regex(/^[\x21-\x7e]{1,128}$/, 'give 1 to 128 printable ASCII characters without spaces');

/** An address in its one spelling. */
export const ipText = z.string('give an IP address').transform((text, context) => {
  const address = normalizeIp(text);
  if (address !== null) return address;
  context.addIssue({ code: 'custom', message: "give an IP address such as '203.0.113.7' or '2001:db8::7', without port or zone" });
  return z.NEVER;
});

/** Absent and null become null. */
export function orNull<Schema extends z.ZodType>(schema: Schema) {
  return schema
    .nullish()
    .transform((value): z.output<Schema> | null => (value === undefined || value === null ? null : (value as z.output<Schema>)));
}

/** What a strict object says about a field that it doesn't know, and about a value that is no object. */
export function objectFault(
  what: string,
  known: readonly string[],
): z.core.$ZodErrorMap<z.core.$ZodIssueInvalidType<unknown> | z.core.$ZodIssueUnrecognizedKeys> {
  return (issue) => {
    if (issue.code !== 'unrecognized_keys') return `give ${what} as a JSON object`;
    const names = issue.keys.slice(0, 5).map((key) => JSON.stringify(withoutCredentials(key).slice(0, 64)));
    return `${names.join(', ')} ${names.length === 1 ? 'is no field' : 'are no fields'} of ${what}; it takes ${known.join(', ')}`;
  };
}
