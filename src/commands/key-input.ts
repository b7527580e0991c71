import { z } from 'zod';

import { canonicalJson } from '../lib/canonical-json.ts';
import { normalizeIpRange } from '../lib/ip-address.ts';
import { Secret } from '../lib/secret.ts';

const MAX_OBJECT_BYTES = 16 * 1024;
const MAX_OBJECT_DEPTH = 32;
/** As JSON writes it. No text and no jsonb of Postgres can hold it. */
const NUL = /(?<!\\)(?:\\\\)*\\u0000/;
/** JavaScript's own limit for exact integers, far above any real cap. */
const cap = z
  .int('give a whole number, or null for no cap')
  .positive('give a number above 0, or null for no cap')
  .nullish()
  .transform((value) => value ?? null);

export const name = z
  .string('give a name of 3 to 50 characters')
  .transform((text) => text.normalize('NFC').trim())
  .refine((text) => [...text].length >= 3 && [...text].length <= 50, 'give a name of 3 to 50 characters')
  .refine((text) => !/\p{Cc}|\p{Cs}/u.test(text), 'a name can hold no control characters');

export const category = z
  .string('give a category of 1 to 50 characters')
  .transform((text) => text.normalize('NFC').trim())
  .refine((text) => text.length >= 1 && text.length <= 50 && !/\p{Cc}|\p{Cs}/u.test(text), 'give a category of 1 to 50 characters');

export const permissions = z
  .array(
    z
      .string()
      .regex(
        /^[A-Za-z0-9_.:*/-]{1,100}$/,
        "a permission is 1 to 100 of the characters A-Z a-z 0-9 _ . : * / -, such as 'read:experiences'",
      ),
    'give a list of permissions; [] for none',
  )
  .max(100, 'a key can carry 100 permissions at most')
  .transform((list) => [...new Set(list)]);

/** A JSON object of a limited size and depth; `field` names it in what a caller is told. */
export const jsonObject = (field: string) =>
  z
    .unknown()
    // Before anything walks through it: what is nested by the thousands would exhaust the stack.
    .refine((value) => isNestedWithin(value, MAX_OBJECT_DEPTH), {
      error: `${field} can be nested ${MAX_OBJECT_DEPTH} levels deep at most`,
      abort: true,
    })
    .refine((value) => isPlainlyNamed(value), "'__proto__' can name nothing here: choose another name")
    .pipe(
      z
        .record(z.string(), z.json(), 'give a JSON object; {} for none')
        .refine(isCanonicalizable, 'give JSON without lone surrogates')
        .refine((value) => !NUL.test(JSON.stringify(value)), 'give JSON without the character U+0000')
        .refine(
          (value) => Buffer.byteLength(JSON.stringify(value)) <= MAX_OBJECT_BYTES,
          `${field} can take ${MAX_OBJECT_BYTES} bytes as JSON at most`,
        ),
    );
const metadata = jsonObject('metadata');

const ipAllowlist = z
  .array(
    z.string().transform((text, context) => {
      const range = normalizeIpRange(text);
      if (range !== null) return range;
      context.addIssue({ code: 'custom', message: 'give an address or a CIDR range, such as 203.0.113.0/24 or 2001:db8::/32' });
      return z.NEVER;
    }),
    'give a list of addresses and ranges; [] for any address',
  )
  .max(100, 'an allowlist can have 100 ranges at most');

const allowedOrigins = z
  .array(
    z
      .string()
      .refine(
        (text) => URL.canParse(text) && new URL(text).origin === text,
        "an origin is scheme, host and perhaps port, such as 'https://app.example.com'",
      ),
    'give a list of origins; [] for any origin',
  )
  .max(100, 'a key can have 100 origins at most');

/** A moment, as a Date or an ISO 8601 text with offset; recorded in UTC with milliseconds. */
const moment = z
  .union([z.date(), z.iso.datetime({ offset: true, error: "give a moment such as '2030-01-31T00:00:00Z'" })])
  .transform((value) => new Date(value).toISOString());

const NO_QUOTAS = { total: null, daily: null, weekly: null, monthly: null };
const NO_LIMITS = { requestsPerMinute: null, tokensPerMinute: null };
const quotas = z
  .strictObject({ total: cap, daily: cap, weekly: cap, monthly: cap })
  .nullable()
  .transform((given) => given ?? NO_QUOTAS);
const limits = z
  .strictObject({ requestsPerMinute: cap, tokensPerMinute: cap })
  .nullable()
  .transform((given) => given ?? NO_LIMITS);
const rotateEveryDays = z.int().min(1, 'give 1 to 3650 days').max(3650, 'give 1 to 3650 days').nullable();

const uuid = z.uuid();
export const idempotencyKeySchema = z
  .string()
  .min(1, 'give 1 to 255 characters')
  .max(255, 'give 1 to 255 characters')
  .nullish()
  .transform((text) => (text == null ? null : new Secret(text)));

const settings = {
  name,
  category,
  permissions,
  expiresAt: moment.nullable(),
  profileId: uuid.nullable(),
  metadata,
  ipAllowlist,
  allowedOrigins,
  quotas,
  limits,
  rotateEveryDays,
};

/** `createApiKey`'s input. What is left out: no permissions, no expiry, no caps, category "production". */
export const createKeySchema = z.strictObject({
  organizationId: uuid,
  type: z.enum(['PUBLIC', 'SECRET', 'TEST']),
  personal: z
    .boolean()
    .nullish()
    .transform((value) => value ?? false),
  name,
  category: orDefault(category, 'production'),
  permissions: orDefault(permissions, []),
  expiresAt: orDefault(settings.expiresAt, null),
  profileId: orDefault(settings.profileId, null),
  metadata: orDefault(metadata, {}),
  ipAllowlist: orDefault(ipAllowlist, []),
  allowedOrigins: orDefault(allowedOrigins, []),
  quotas: orDefault(quotas, NO_QUOTAS),
  limits: orDefault(limits, NO_LIMITS),
  rotateEveryDays: orDefault(rotateEveryDays, null),
  idempotencyKey: idempotencyKeySchema,
});

/** `updateApiKey`'s input: what is left out stays; null clears what can be cleared; `quotas` and `limits` are replaced whole. */
export const updateKeySchema = z.strictObject({ id: uuid, idempotencyKey: idempotencyKeySchema, ...z.object(settings).partial().shape });
export const keyIdSchema = z.strictObject({ id: uuid, idempotencyKey: idempotencyKeySchema });
export const regenerateKeySchema = z.strictObject({
  id: uuid,
  overlapUntil: orDefault(moment.nullable(), null),
  idempotencyKey: idempotencyKeySchema,
});
export const deleteKeySchema = z.strictObject({ id: uuid, confirmName: z.string(), idempotencyKey: idempotencyKeySchema });

/** GraphQL sends null for what a client leaves out as a variable: both mean the default. */
function orDefault<Schema extends z.ZodType>(schema: Schema, value: z.output<Schema>) {
  return schema
    .nullish()
    .transform((given): z.output<Schema> => (given === null || given === undefined ? value : (given as z.output<Schema>)));
}

function isNestedWithin(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return true;
  return levels > 0 && Object.values(value).every((part) => isNestedWithin(part, levels - 1));
}

/** A parser makes `__proto__` a member like any other, and whoever copies the object would lose it without a word. */
function isPlainlyNamed(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return true;
  return !Object.hasOwn(value, '__proto__') && Object.values(value).every(isPlainlyNamed);
}

function isCanonicalizable(value: z.core.util.JSONType): boolean {
  try {
    canonicalJson(value);
    return true;
  } catch {
    return false; // the refinement's own message says what to mend
  }
}
