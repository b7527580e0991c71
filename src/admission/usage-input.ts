import { z } from 'zod';

import type { UsageItem } from './admission.ts';
import { ipText, objectFault, orNull, plainText, requestIdText } from './request-text.ts';

const MINUTE_MS = 60 * 1000;
const DAY_MS = 24 * 60 * MINUTE_MS;
/** Clocks differ; what is further ahead is wrong, and would count in a window that has not begun. */
export const MAX_AHEAD_MS = 5 * MINUTE_MS;
/** The longest window: what is older can change no decision any more. */
export const MAX_AGE_MS = 30 * DAY_MS;
export const MAX_DURATION_MS = DAY_MS;
/** A million of the currency, or a million million tokens, for one request. Ten thousand such items still add up within 64 bits, so no report can make a counter overflow. */
export const MAX_AMOUNT = 1_000_000_000_000;
export const MAX_CREDITS = 1_000_000;

/** Items in one report. */
export const MAX_USAGE_ITEMS = 10_000;

const statusFault = 'give the HTTP status that the end client got, 100 to 599';
const durationFault = `give whole milliseconds from 0 to ${MAX_DURATION_MS}`;
const creditsFault = `give a whole number from 0 to ${MAX_CREDITS}`;
const amountFault = `give a whole number from 0 to ${MAX_AMOUNT}, as a number or as its decimal digits in a string`;
const momentFault = "give a moment with its offset, such as '2026-01-31T12:00:00Z'";

/** Micros and tokens: exact as a JSON number up to the bound, and as text for clients whose 64-bit numbers travel that way. */
const amount = orNull(
  z
    .union(
      [
        z.int(amountFault),
        z
          .string()
          .regex(/^\d{1,13}$/)
          .transform(Number),
      ],
      amountFault,
    )
    .refine((value) => value >= 0 && value <= MAX_AMOUNT, amountFault)
    .transform((value) => BigInt(value)),
);

/** One item of `POST /v1/usage` and of `recordUsage`; `clock` gives the present, which `at` is held against. */
export function createUsageItemSchema(clock: () => Date) {
  const moment = z
    .preprocess(
      (value) => (value instanceof Date && !Number.isNaN(value.getTime()) ? value.toISOString() : value),
      z.iso.datetime({ offset: true, error: momentFault }),
    )
    .transform((value) => new Date(value))
    .refine(
      (at) => at.getTime() - clock().getTime() <= MAX_AHEAD_MS,
      'it lies more than 5 minutes ahead: set the clock of the reporting machine',
    )
    .refine((at) => clock().getTime() - at.getTime() <= MAX_AGE_MS, 'it is more than 30 days ago, which is too old to be recorded');
  const fields = {
    requestId: orNull(requestIdText).describe(
      'the id that the verification answered or was given; or an id of your own, under which the item is recorded once',
    ),
    keyId: orNull(z.uuid("give the key's id, a UUID")).describe('needed for a request that was not verified here'),
    at: orNull(moment).describe('when the request happened; now where it is left out'),
    endpoint: plainText(256).describe('method and path'),
    status: z.int(statusFault).min(100, statusFault).max(599, statusFault),
    durationMs: z.int(durationFault).min(0, durationFault).max(MAX_DURATION_MS, durationFault).describe('to the first byte'),
    ip: orNull(ipText).describe("the end client's address"),
    credits: orNull(z.int(creditsFault).min(0, creditsFault).max(MAX_CREDITS, creditsFault)).describe(
      'units of a request that was not verified here; 1 where it is left out',
    ),
    costMicros: amount.describe('millionths of the currency'),
    tokensIn: amount,
    tokensOut: amount,
    model: orNull(plainText(128)),
  };
  return z.strictObject(fields, { error: objectFault('an item', Object.keys(fields)) }) satisfies z.ZodType<UsageItem>;
}

export type UsageItemSchema = ReturnType<typeof createUsageItemSchema>;
