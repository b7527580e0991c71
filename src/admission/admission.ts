import type { VerificationCode } from '../domain/refusals.ts';
import type { KeyType } from '../domain/key-format.ts';
import type { JsonValue } from '../lib/canonical-json.ts';

/** One question: may this key pass? Parsed at the edge (`verifyInputSchema`). */
export type VerifyRequest = {
  readonly key: string;
  /** All of them are needed. */
  readonly permissions: readonly string[];
  /** Units to consume; 0 asks without consuming. */
  readonly cost: number;
  /** Method and path, such as `GET /v1/models`. */
  readonly endpoint: string | null;
  /** The end client's address. */
  readonly ip: string | null;
  readonly origin: string | null;
  readonly environment: 'live' | 'test' | null;
  /** A request id that was answered before gets that answer again and consumes nothing. */
  readonly requestId: string | null;
};

/** Who asks: a caller whom the edge has authenticated, or the hash of an access token that the batch itself checks, at no extra round trip. */
export type VerifyCaller =
  | { readonly kind: 'organization'; readonly organizationId: string }
  | { readonly kind: 'token'; /** SHA-256, in hex. */ readonly tokenHash: string };

export type VerifiedKey = {
  readonly id: string;
  readonly name: string;
  readonly type: KeyType;
  readonly category: string;
  readonly permissions: readonly string[];
  readonly metadata: JsonValue;
  readonly expiresAt: Date | null;
  readonly profile: { readonly name: string; readonly settings: JsonValue } | null;
  readonly organizationId: string;
  readonly ownerId: string | null;
  readonly outdatedSecret: boolean;
};

export type RefusedBy =
  | { readonly quota: 'total' | 'daily' | 'weekly' | 'monthly'; readonly retryAfterSeconds: number | null }
  | {
      readonly limit: 'key_minute' | 'key_tokens' | 'organization_second' | 'organization_minute';
      readonly retryAfterSeconds: number | null;
    };

/** The answer, with what the caller may tell the end client. */
export type VerifyAnswer = {
  readonly kind: 'answer';
  readonly code: VerificationCode;
  /** Null for VALID. */
  readonly message: string | null;
  /** The status that the end client should see. */
  readonly httpStatus: number;
  readonly requestId: string;
  /** Of the UsageRecorded event; null where none was recorded (an unknown key, cost 0). */
  readonly position: bigint | null;
  /** Told only with VALID. */
  readonly key: VerifiedKey | null;
  readonly rateLimit: { readonly limit: number; readonly remaining: number; readonly resetEpochSeconds: number } | null;
  readonly quotas: readonly {
    readonly window: 'TOTAL' | 'DAILY' | 'WEEKLY' | 'MONTHLY';
    readonly limit: number;
    readonly remaining: number;
  }[];
  /** Which limit refused, and when a request of this cost could pass; null seconds where it never will by waiting. */
  readonly refusedBy: RefusedBy | null;
  /** The id of the key that refused, for the owner's request log; null where the secret was not right. */
  readonly keyId: string | null;
};

/** One reported request; see `usageItemSchema`. */
export type UsageItem = {
  readonly requestId: string | null;
  readonly keyId: string | null;
  readonly at: Date | null;
  readonly endpoint: string;
  readonly status: number;
  readonly durationMs: number;
  readonly ip: string | null;
  readonly credits: number | null;
  readonly costMicros: bigint | null;
  readonly tokensIn: bigint | null;
  readonly tokensOut: bigint | null;
  readonly model: string | null;
};

export type UsageOutcome =
  | { readonly kind: 'recorded'; readonly accepted: number; readonly duplicates: number; readonly position: bigint }
  /** The whole batch is refused; nothing was recorded. */
  | { readonly kind: 'bad-item'; readonly index: number; readonly message: string };

/** The token is unknown, expired or revoked; or lacks `keys:verify`; or the request id belongs to reported usage or to a request with another key. */
export type CallerRefused = { readonly kind: 'unauthenticated' } | { readonly kind: 'forbidden' } | { readonly kind: 'request-id-taken' };

/** The database could not be asked, or not in time: the answer is 503, never "valid". */
export class AdmissionUnavailableError extends Error {
  readonly retryAfterSeconds: number;
  constructor(reason: string, options: { readonly retryAfterSeconds: number; readonly cause?: unknown }) {
    super(reason, { cause: options.cause });
    this.name = 'AdmissionUnavailableError';
    this.retryAfterSeconds = options.retryAfterSeconds;
  }
}

/** Decides about requests and records them. */
export type Admission = {
  /** The UsageRecorded of the answer is committed when this resolves. Throws {@link AdmissionUnavailableError}. */
  verify(caller: VerifyCaller, request: VerifyRequest): Promise<VerifyAnswer | CallerRefused>;
  /** Records and settles usage of one organization's keys in one commit. */
  recordUsage(organizationId: string, items: readonly UsageItem[]): Promise<UsageOutcome>;
  close(): Promise<void>;
};
