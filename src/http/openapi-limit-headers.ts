import type { JsonValue } from '../lib/canonical-json.ts';

const integer: JsonValue = { schema: { type: 'integer' } };

/** The header fields of src/http/rate-limit-fields.ts, for the OpenAPI document; each is sent only where a limit stands behind it. */
export const LIMIT_HEADERS: { readonly [name: string]: JsonValue } = {
  'X-RateLimit-Limit': integer,
  'X-RateLimit-Remaining': integer,
  'X-RateLimit-Reset': { description: 'Epoch seconds.', schema: { type: 'integer' } },
  RateLimit: { description: 'draft-ietf-httpapi-ratelimit-headers-11', schema: { type: 'string' } },
  'RateLimit-Policy': { description: 'draft-ietf-httpapi-ratelimit-headers-11', schema: { type: 'string' } },
};
