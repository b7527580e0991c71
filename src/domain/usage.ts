import { VERIFICATION_REFUSALS, type VerificationCode } from './refusals.ts';

/** `usage_events.kind`. A request's settling row names it in `settles`; the table `settlements` finds the one from the other. */
export const USAGE_KINDS = { verified: 1, reported: 2, settled: 3 } as const;

/** `usage_events.code`: the outcome by number, as the log and the SQL of admission have it. New ones are added at the end. */
const CODES: readonly VerificationCode[] = [
  'VALID',
  'INVALID_KEY',
  'INACTIVE',
  'EXPIRED',
  'PERMISSION_DENIED',
  'WRONG_ENVIRONMENT',
  'IP_NOT_ALLOWED',
  'ORIGIN_NOT_ALLOWED',
  'IP_BLOCKED',
  'INSUFFICIENT_BALANCE',
  'QUOTA_EXCEEDED',
  'RATE_LIMITED',
];

export function codeNumber(code: VerificationCode): number {
  return CODES.indexOf(code);
}

export function codeOf(number: number): VerificationCode {
  const code = CODES[number];
  if (code === undefined)
    throw new RangeError(`The log holds the outcome ${number}, which this version doesn't know: upgrade before you go on.`);
  return code;
}

/** The HTTP status that the end client should see. */
export function httpStatusOf(code: VerificationCode): number {
  return code === 'VALID' ? 200 : VERIFICATION_REFUSALS[code].httpStatus;
}

const GENERATED_REQUEST_ID = /^req_(\d{1,19})$/;

/** The id of a request whose caller chose none: its position, so that it takes no room of its own. */
export function requestIdOf(position: bigint): string {
  return `req_${position}`;
}

/** The position that a generated request id stands for; null for an id that a caller chose. */
export function positionOfRequestId(requestId: string): bigint | null {
  const match = GENERATED_REQUEST_ID.exec(requestId);
  return match?.[1] === undefined ? null : BigInt(match[1]);
}
