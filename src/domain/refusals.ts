/**
 * Every expected failure, in one catalogue. GraphQL's error types and codes, the bodies and statuses of the data plane and the tables of docs/data-plane.md derive from it.
 * `httpStatus` is what the end client of a refused verification should see, or the status of a refused request to our own HTTP.
 */
export const VERIFICATION_REFUSALS = {
  INVALID_KEY: { httpStatus: 401, message: 'Invalid API Key' },
  INACTIVE: { httpStatus: 401, message: 'Inactive API Key' },
  EXPIRED: { httpStatus: 401, message: 'Expired API Key' },
  PERMISSION_DENIED: { httpStatus: 403, message: 'Permission denied' },
  WRONG_ENVIRONMENT: { httpStatus: 403, message: 'Wrong environment' },
  IP_NOT_ALLOWED: { httpStatus: 403, message: 'IP not allowed' },
  ORIGIN_NOT_ALLOWED: { httpStatus: 403, message: 'Origin not allowed' },
  IP_BLOCKED: { httpStatus: 403, message: 'IP temporarily blocked' },
  INSUFFICIENT_BALANCE: { httpStatus: 402, message: 'Insufficient balance' },
  QUOTA_EXCEEDED: { httpStatus: 429, message: 'Rate limit exceeded: quota' },
  RATE_LIMITED: { httpStatus: 429, message: 'Rate limit exceeded' },
} as const;
export type VerificationRefusal = keyof typeof VERIFICATION_REFUSALS;
export type VerificationCode = 'VALID' | VerificationRefusal;
export const VERIFICATION_CODES: readonly [VerificationCode, ...VerificationCode[]] = [
  'VALID',
  ...(Object.keys(VERIFICATION_REFUSALS) as VerificationRefusal[]),
];

/** Expected failures of a mutation: members of its result union, each `{ code, message }`. */
export const MUTATION_REFUSALS = {
  INVALID_INPUT: 'The input is invalid',
  NOT_FOUND: 'There is no such object in your organization',
  NAME_TAKEN: 'Another key of the organization has this name; choose another one',
  CONFIRMATION_MISMATCH: "To delete a key, give its exact name as 'confirmName'",
  KEY_EXPIRED: "The key has expired; set a later 'expiresAt' first",
  PROFILE_IN_USE: 'Keys have this profile; give them another one or none first',
  KEY_WAS_USED: 'The key was used, and your organization deletes only keys that never were; deactivate it instead',
  PERMISSION_NOT_PUBLIC: 'Your organization does not allow PUBLIC keys to carry this permission',
  KEY_DELETED: 'The key was deleted, which is permanent',
  ALREADY_IMPORTED: 'A key with this hash was imported before; leave it out, or see in the log what became of it',
  INSUFFICIENT_BALANCE: 'The prepaid balance of your organization is used up; add funds before you create keys',
  KEY_ARCHIVED:
    'Personal keys are archived while their owner belongs to a team, and stay so once they left; use a key of the team, or leave it first',
  LAST_OWNER: 'An organization keeps at least one owner; make another member an owner first',
  ALREADY_MEMBER: 'This person is a member already',
  WEBHOOK_INACTIVE: 'The webhook endpoint is not active; activate it first',
  IDEMPOTENCY_CONFLICT: 'This idempotency key was used with another input; use a new one for a new request',
} as const;
export type MutationRefusalCode = keyof typeof MUTATION_REFUSALS;

/** Requests to our own HTTP that could not be answered, each `{ "error": { "code", "message" } }`. The sentence is the general one; the answer says what was wrong. */
export const REQUEST_REFUSALS = {
  BAD_USER_INPUT: { httpStatus: 400, message: 'The request is malformed' },
  UNAUTHENTICATED: { httpStatus: 401, message: "This needs credentials: send 'Authorization: Bearer <access token>'" },
  FORBIDDEN: { httpStatus: 403, message: 'The access token does not carry the permission that this needs' },
  NOT_FOUND: { httpStatus: 404, message: 'There is nothing at this path' },
  METHOD_NOT_ALLOWED: { httpStatus: 405, message: 'This path does not take this method' },
  REQUEST_TIMEOUT: { httpStatus: 408, message: 'The request did not arrive in time' },
  REQUEST_ID_TAKEN: { httpStatus: 409, message: 'Another request has this id already; choose another one' },
  PAYLOAD_TOO_LARGE: { httpStatus: 413, message: 'The body is too large' },
  UNSUPPORTED_MEDIA_TYPE: { httpStatus: 415, message: 'The body has a type that this path does not take' },
  HEADERS_TOO_LARGE: { httpStatus: 431, message: 'The headers of the request are too large' },
  INTERNAL_SERVER_ERROR: { httpStatus: 500, message: 'Something went wrong here, not with your request' },
  SERVICE_UNAVAILABLE: { httpStatus: 503, message: 'The database can not be reached; try again' },
} as const;
export type RequestRefusalCode = keyof typeof REQUEST_REFUSALS;

export type Refusal = {
  readonly kind: 'refusal';
  readonly code: MutationRefusalCode;
  readonly message: string;
  /** For INVALID_INPUT: the path of the field in the mutation's input, e.g. `quotas.daily`. */
  readonly field?: string;
};

/** A refusal from the catalogue; `detail` replaces the general sentence where a better one is known. */
export function refusal(code: MutationRefusalCode, detail?: string, field?: string): Refusal {
  return { kind: 'refusal', code, message: detail ?? MUTATION_REFUSALS[code], ...(field === undefined ? {} : { field }) };
}

export function isRefusal(value: unknown): value is Refusal {
  return typeof value === 'object' && value !== null && (value as { kind?: unknown }).kind === 'refusal';
}
