/**
 * Every expected failure, in one catalogue. GraphQL's error types and codes, the bodies and statuses of the data plane and docs/refusals.md derive from it.
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

/** Expected failures of a mutation: members of its result union, each `{ code, message }`. */
export const MUTATION_REFUSALS = {
  INVALID_INPUT: 'The input is invalid',
  NOT_FOUND: 'There is no such object in your organization',
  NAME_TAKEN: 'Another key of the organization has this name; choose another one',
  CONFIRMATION_MISMATCH: "To delete a key, give its exact name as 'confirmName'",
  KEY_EXPIRED: "The key has expired; set a later 'expiresAt' first",
  KEY_DELETED: 'The key was deleted, which is permanent',
  LAST_OWNER: 'An organization keeps at least one owner; make another member an owner first',
  ALREADY_MEMBER: 'This person is a member already',
  IDEMPOTENCY_CONFLICT: 'This idempotency key was used with another input; use a new one for a new request',
} as const;
export type MutationRefusalCode = keyof typeof MUTATION_REFUSALS;

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
