import { positionOfRequestId } from '../domain/usage.ts';
import type { VerifyRequest } from './admission.ts';
import { IPV4, isWhole, matches, REQUEST_ID, TEXT } from './plain-values.ts';
import { MAX_COST, MAX_ENDPOINT, MAX_KEY_LENGTH, MAX_ORIGIN, MAX_PERMISSIONS, PERMISSION, type verifyInputSchema } from './verify-input.ts';

const FIELDS: ReadonlySet<string> = new Set<keyof (typeof verifyInputSchema)['shape']>([
  'key',
  'permissions',
  'cost',
  'endpoint',
  'ip',
  'origin',
  'environment',
  'requestId',
]);
const NONE: readonly string[] = [];

type Raw = { readonly [Field in keyof VerifyRequest]?: unknown };

/**
 * Reads a question that is written in the plainest way as exactly what the schema would make of it, at a fraction of the time. Null for every other, be it wrong or right in a way less
 * common: about those the schema decides, which has the words for what is wrong.
 */
export function readPlainQuestion(value: unknown): VerifyRequest | null {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return null;
  for (const name in value) if (!FIELDS.has(name)) return null;
  const { key, permissions, cost = 1, endpoint = null, ip = null, origin = null, environment = null, requestId = null } = value as Raw;
  if (
    !(typeof key === 'string' && key.length <= MAX_KEY_LENGTH) ||
    !(permissions === undefined || arePermissions(permissions)) ||
    !isWhole(cost, 0, MAX_COST) ||
    !(endpoint === null || (matches(endpoint, TEXT) && endpoint.length <= MAX_ENDPOINT)) ||
    !(ip === null || matches(ip, IPV4)) ||
    !(origin === null || (matches(origin, TEXT) && origin.length <= MAX_ORIGIN)) ||
    !(environment === null || environment === 'live' || environment === 'test') ||
    !(requestId === null || (matches(requestId, REQUEST_ID) && positionOfRequestId(requestId) === null))
  )
    return null;
  return { key, permissions: permissions ?? NONE, cost, endpoint, ip, origin, environment, requestId };
}

function arePermissions(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.length <= MAX_PERMISSIONS && value.every((item) => matches(item, PERMISSION));
}
