import { z } from 'zod';

import { positionOfRequestId } from '../domain/usage.ts';
import type { VerifyRequest } from './admission.ts';
import { ipText, objectFault, orNull, plainText, requestIdText } from './request-text.ts';

export const MAX_KEY_LENGTH = 512;
export const MAX_COST = 1_000_000;
export const MAX_PERMISSIONS = 100;
export const MAX_ENDPOINT = 256;
export const MAX_ORIGIN = 512;
export const PERMISSION = /^[A-Za-z0-9_.:*/-]{1,100}$/;

const permission = z
  .string('give the names of permissions')
  .regex(PERMISSION, "a permission is 1 to 100 of the characters A-Z a-z 0-9 _ . : * / -, such as 'read:experiences'");
const costFault = `give a whole number from 0 to ${MAX_COST}; 0 asks without consuming`;
const NONE: readonly string[] = [];

const fields = {
  key: z
    .string('give the key that the client presented, as text')
    .max(MAX_KEY_LENGTH, `give at most ${MAX_KEY_LENGTH} characters`)
    .describe('the key, as the end client presented it'),
  permissions: z
    .array(permission, 'give a list of permissions')
    .max(MAX_PERMISSIONS, `give at most ${MAX_PERMISSIONS} permissions`)
    .nullish()
    .transform((list) => list ?? NONE)
    .describe('all of them are needed'),
  cost: z
    .int(costFault)
    .min(0, costFault)
    .max(MAX_COST, costFault)
    .nullish()
    .transform((cost) => cost ?? 1)
    .describe('units to consume, 1 where it is left out; 0 asks without consuming'),
  endpoint: orNull(plainText(MAX_ENDPOINT)).describe('method and path, for the request log'),
  ip: orNull(ipText).describe("the end client's address"),
  origin: orNull(plainText(MAX_ORIGIN)).describe("the end client's Origin header"),
  environment: orNull(z.enum(['live', 'test'], "give 'live' or 'test'")).describe('refuses keys of the other environment'),
  requestId: orNull(
    requestIdText.refine(
      (id) => positionOfRequestId(id) === null,
      "ids of the form 'req_<digits>' are given by the server; choose another form",
    ),
  ).describe('a request id that was answered before gets that answer again and consumes nothing'),
};

/**
 * The question of `POST /v1/verify` and of `verifyApiKey`. No message holds what was given: it may be a secret in the wrong place. One parse takes about a microsecond, as
 * zod compiles the object.
 */
export const verifyInputSchema = z.strictObject(fields, {
  error: objectFault('the question', Object.keys(fields)),
}) satisfies z.ZodType<VerifyRequest>;
