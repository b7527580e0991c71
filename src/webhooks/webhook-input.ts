import { z } from 'zod';

import { idempotencyKeySchema } from '../commands/key-input.ts';
import { EVENT_TYPES, type EventType } from '../domain/event.ts';
import type { AddressPolicy } from './address-policy.ts';
import { webhookUrlFault } from './webhook-url.ts';

/** What an endpoint gets that doesn't say what it wants. */
export const DEFAULT_EVENT_TYPES: readonly EventType[] = ['AlertRaised'];

/** Usage is read by statistics and by the request log: a message for each request would be a request for each request. */
const NOT_DELIVERED = ['UsageRecorded', 'UsageSettled'];

const uuid = z.uuid();
const description = z
  .string()
  .transform((text) => text.normalize('NFC').trim())
  .refine((text) => text.length <= 200 && !/\p{Cc}|\p{Cs}/u.test(text), 'give up to 200 characters, none of them a control character');
const eventTypes = z
  .array(
    z
      .enum(EVENT_TYPES as readonly [EventType, ...EventType[]])
      .refine((type) => !NOT_DELIVERED.includes(type), 'usage is not delivered event by event; ask for alerts, or read the statistics'),
  )
  .min(1, 'give one event type at least')
  .max(100, 'give 100 event types at most')
  .transform((list): readonly EventType[] => [...new Set(list)].toSorted());

/** The inputs of the webhook mutations; which URLs are good depends on where the server may deliver to. */
export function webhookInputs(policy: AddressPolicy) {
  const url = z
    .string()
    .transform((text) => text.trim())
    .superRefine((text, context) => {
      const fault = webhookUrlFault(text, policy);
      if (fault !== null) context.addIssue({ code: 'custom', message: fault });
    })
    .transform((text) => new URL(text).href);
  return {
    create: z.strictObject({
      organizationId: uuid,
      url,
      description: description.nullish().transform((text) => text ?? ''),
      eventTypes: eventTypes.nullish().transform((types) => types ?? DEFAULT_EVENT_TYPES),
      idempotencyKey: idempotencyKeySchema,
    }),
    /** What is left out, or null, stays. */
    update: z.strictObject({
      id: uuid,
      url: url.nullish(),
      description: description.nullish(),
      eventTypes: eventTypes.nullish(),
      active: z.boolean().nullish(),
      idempotencyKey: idempotencyKeySchema,
    }),
    rotate: z.strictObject({
      id: uuid,
      overlapUntil: z
        .union([z.date(), z.iso.datetime({ offset: true, error: "give a moment such as '2030-01-31T00:00:00Z'" })])
        .nullish()
        .transform((value) => (value == null ? null : new Date(value))),
      idempotencyKey: idempotencyKeySchema,
    }),
    one: z.strictObject({ id: uuid, idempotencyKey: idempotencyKeySchema }),
  } as const;
}
