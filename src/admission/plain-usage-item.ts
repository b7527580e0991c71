import type { UsageItem } from './admission.ts';
import { IPV4, isWhole, matches, REQUEST_ID, TEXT } from './plain-values.ts';
import { MAX_AGE_MS, MAX_AHEAD_MS, MAX_AMOUNT, MAX_CREDITS, MAX_DURATION_MS, type UsageItemSchema } from './usage-input.ts';

const UUID = /^[\da-f]{8}-[\da-f]{4}-[1-8][\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/;
/** On a day that every month has. */
const MOMENT = /^20\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,3})?Z$/;
const MAX_ENDPOINT = 256;
const MAX_MODEL = 128;

const FIELDS = new Set<keyof UsageItemSchema['shape']>([
  'requestId',
  'keyId',
  'at',
  'endpoint',
  'status',
  'durationMs',
  'ip',
  'credits',
  'costMicros',
  'tokensIn',
  'tokensOut',
  'model',
]) as ReadonlySet<string>;

type Raw = { readonly [Field in keyof UsageItem]?: unknown };

/**
 * Reads an item that is written in the plainest way as exactly what the schema would make of it, at a fraction of the time. Null for every other, be it wrong or right in a way less
 * common: about those the schema decides, which has the words for what is wrong.
 */
export function createPlainUsageItemReader(clock: () => Date): (value: unknown) => UsageItem | null {
  return (value) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return null;
    for (const name in value) if (!FIELDS.has(name)) return null;
    const raw = value as Raw;
    const { endpoint, status, durationMs } = raw;
    const [requestId, keyId, ip, credits, model] = [
      raw.requestId ?? null,
      raw.keyId ?? null,
      raw.ip ?? null,
      raw.credits ?? null,
      raw.model ?? null,
    ];
    const [costMicros, tokensIn, tokensOut, at] = [
      amount(raw.costMicros),
      amount(raw.tokensIn),
      amount(raw.tokensOut),
      moment(raw.at, clock),
    ];
    if (
      !(requestId === null || matches(requestId, REQUEST_ID)) ||
      !(keyId === null || matches(keyId, UUID)) ||
      at === undefined ||
      !(matches(endpoint, TEXT) && endpoint.length <= MAX_ENDPOINT) ||
      !isWhole(status, 100, 599) ||
      !isWhole(durationMs, 0, MAX_DURATION_MS) ||
      !(ip === null || matches(ip, IPV4)) ||
      !(credits === null || isWhole(credits, 0, MAX_CREDITS)) ||
      costMicros === undefined ||
      tokensIn === undefined ||
      tokensOut === undefined ||
      !(model === null || (matches(model, TEXT) && model.length <= MAX_MODEL))
    )
      return null;
    return { requestId, keyId, at, endpoint, status, durationMs, ip, credits, costMicros, tokensIn, tokensOut, model };
  };
}

/** Undefined where it is not plain. */
function amount(value: unknown): bigint | null | undefined {
  if (value === undefined || value === null) return null;
  return isWhole(value, 0, MAX_AMOUNT) ? BigInt(value) : undefined;
}

/** Undefined where it is not plain, or out of bounds. */
function moment(value: unknown, clock: () => Date): Date | null | undefined {
  if (value === undefined || value === null) return null;
  if (!matches(value, MOMENT)) return undefined;
  const at = new Date(value);
  const aheadMs = at.getTime() - clock().getTime();
  return aheadMs <= MAX_AHEAD_MS && -aheadMs <= MAX_AGE_MS ? at : undefined;
}
