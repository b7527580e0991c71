import type { z } from 'zod';

import { refusal, type Refusal } from '../domain/refusals.ts';

/** Parses a mutation's input; the refusal names the first field at fault by its path and says what would be right. */
export function parseInput<Schema extends z.ZodType>(
  schema: Schema,
  input: unknown,
): { readonly ok: true; readonly value: z.output<Schema> } | { readonly ok: false; readonly refusal: Refusal } {
  const parsed = schema.safeParse(input);
  if (parsed.success) return { ok: true, value: parsed.data };
  const { message, field } = describeFaults(parsed.error);
  return { ok: false, refusal: refusal('INVALID_INPUT', message, field) };
}

/** What is wrong in one sentence, each field named by its path, and the first field at fault; undefined where the input as a whole is. */
export function describeFaults(error: z.ZodError): { readonly message: string; readonly field: string | undefined } {
  const field = error.issues[0]?.path.map(String).join('.') ?? '';
  const faults = error.issues.map(({ path, message: text }) => (path.length === 0 ? text : `'${path.map(String).join('.')}': ${text}`));
  const message = [...new Set(faults)].slice(0, 5).join('; ');
  return { message, field: field === '' ? undefined : field };
}
