import { z } from 'zod';

import { KEY_PREFIXES, type KeyType } from '../domain/key-format.ts';
import { REQUEST_REFUSALS, VERIFICATION_CODES, type RequestRefusalCode } from '../domain/refusals.ts';

// What the data plane answers, for schema/openapi.json; a test holds real answers against these.

const position = z.string().regex(/^\d+$/);
const count = z.int().nonnegative();
const moment = z.iso.datetime();

const keySchema = z.strictObject({
  id: z.uuid(),
  name: z.string(),
  type: z.enum(Object.keys(KEY_PREFIXES) as [KeyType, ...KeyType[]]),
  category: z.string(),
  permissions: z.array(z.string()),
  metadata: z.record(z.string(), z.unknown()),
  expiresAt: moment.nullable(),
  profile: z.strictObject({ name: z.string(), settings: z.record(z.string(), z.unknown()) }).nullable(),
  organizationId: z.uuid(),
  ownerId: z.uuid().nullable().describe('the member whose personal key it is'),
  outdatedSecret: z.boolean().describe('the secret was regenerated and this one works only until its overlap ends'),
});

export const verifyAnswerSchema = z.strictObject({
  valid: z.boolean(),
  code: z.enum(VERIFICATION_CODES),
  message: z.string().nullable().describe('for the end client; null with VALID'),
  requestId: z.string(),
  position: position.nullable().describe('of the event that recorded the request; null where none did (an unknown key, cost 0)'),
  key: keySchema.nullable().describe('told only with VALID'),
  rateLimit: z.strictObject({ limit: count, remaining: count, reset: z.int().describe('epoch seconds') }).nullable(),
  quotas: z.array(z.strictObject({ window: z.enum(['TOTAL', 'DAILY', 'WEEKLY', 'MONTHLY']), limit: count, remaining: count })),
  quota: z.enum(['total', 'daily', 'weekly', 'monthly']).optional().describe('with QUOTA_EXCEEDED: which'),
  limit: z.enum(['key_minute', 'key_tokens', 'organization_second', 'organization_minute']).optional().describe('with RATE_LIMITED: which'),
  httpStatus: z
    .int()
    .optional()
    .describe('with a quota or limit: what the end client should be answered, 429 or, where the organization asks for it, 401'),
  retryAfter: z
    .int()
    .positive()
    .nullable()
    .optional()
    .describe('seconds until a request of this cost could pass; null where waiting will not help'),
});

export const usageAnswerSchema = z.strictObject({
  accepted: count,
  duplicates: count.describe('items whose request was recorded or settled before; they had no effect'),
  position: position.describe('of the last event; the log has all of the report up to here'),
});

const requestCodes = Object.keys(REQUEST_REFUSALS) as [RequestRefusalCode, ...RequestRefusalCode[]];

export const errorSchema = z.strictObject({
  error: z.strictObject({
    code: z.enum(requestCodes),
    message: z.string(),
    index: count.optional().describe('of the item at fault, from 0'),
    field: z.string().optional().describe('the field at fault, by its path'),
  }),
});

const check = z.strictObject({ ok: z.boolean(), reason: z.string().optional() });
export const readinessSchema = z.strictObject({
  status: z.enum(['ready', 'unavailable']),
  checks: z.strictObject({ database: check, migrations: check, projectors: check, draining: check }),
});
export const livenessSchema = z.strictObject({ status: z.literal('ok') });
