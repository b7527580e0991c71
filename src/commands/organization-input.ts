import { z } from 'zod';

import { ROLES } from '../domain/permissions.ts';
import { PLAN_NAMES } from '../domain/plan.ts';
import { idempotencyKeySchema } from './key-input.ts';
import { personFields, titleSchema } from './person.ts';

const role = z.enum(ROLES);
const uuid = z.uuid();

export const renameOrganizationSchema = z.strictObject({ organizationId: uuid, name: titleSchema, idempotencyKey: idempotencyKeySchema });
export const changeTeamSchema = z.strictObject({ organizationId: uuid, team: z.boolean(), idempotencyKey: idempotencyKeySchema });
const cap = z
  .int('give a whole number, or null for no cap')
  .positive('give a number above 0, or null for no cap')
  .nullish()
  .transform((value) => value ?? null);
export const changePlanSchema = z.strictObject({
  organizationId: uuid,
  plan: z.enum(PLAN_NAMES),
  caps: z
    .strictObject({ requestsPerSecond: cap, requestsPerMinute: cap })
    .nullish()
    .transform((value) => value ?? null),
  idempotencyKey: idempotencyKeySchema,
});
export const addMemberSchema = z.strictObject({
  organizationId: uuid,
  role,
  ...personFields,
  joinCode: z
    .string()
    .max(500)
    .nullish()
    .transform((value) => value ?? null),
  idempotencyKey: idempotencyKeySchema,
});
export const changeMemberRoleSchema = z.strictObject({ id: uuid, role, idempotencyKey: idempotencyKeySchema });
export const leaveOrganizationSchema = z.strictObject({ idempotencyKey: idempotencyKeySchema });
export const removeMemberSchema = z.strictObject({ id: uuid, idempotencyKey: idempotencyKeySchema });
