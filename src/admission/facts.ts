import { BlockList, isIPv4 } from 'node:net';

import { codeNumber } from '../domain/usage.ts';
import { sameMac } from '../identity/pepper.ts';
import type { Asked } from './asked.ts';
import type { KeyFacts } from './key-facts.ts';

/** An access token that the database knows. */
export type TokenFacts = {
  readonly organizationId: string;
  /** Neither revoked nor of a member who has gone. */
  readonly valid: boolean;
  readonly mayVerify: boolean;
  readonly expiresUs: number | null;
};

export type OrganizationFacts = {
  readonly id: string;
  readonly number: number;
  /** It has limits over all its keys. */
  readonly capped: boolean;
  /** It keeps a balance, which may have run out. */
  readonly balanced: boolean;
};

/** One secret of a key. */
export type VerifierFacts = {
  readonly lookupId: string;
  /** In hex. */
  readonly mac: string;
  readonly pepperId: string;
  /** False for an outdated secret. */
  readonly current: boolean;
  readonly expiresUs: number | null;
  readonly key: KeyRules;
};

/** All that decides about a key but what it has used. */
export type KeyRules = {
  readonly number: number;
  readonly organizationId: string;
  /** Its state, and not archived. */
  readonly active: boolean;
  readonly expiresUs: number | null;
  readonly test: boolean;
  /** Null: from anywhere. */
  readonly addresses: AddressRanges | null;
  /** Null: from any. */
  readonly origins: ReadonlySet<string> | null;
  readonly permissions: ReadonlySet<string>;
  readonly limits: KeyLimits;
  readonly windows: KnownWindows;
  /** What an answer tells. */
  readonly told: KeyFacts;
  /** About what all of this takes in memory. */
  readonly bytes: number;
};

/**
 * What is known of a key's windows. Only how they are asked depends on it, and never the answer; it changes with each answer.
 */
export type KnownWindows = {
  /** The second since 1970 up to which they have been brought. */
  second: number;
  /** What all that it ever used may come to while none of its limits but that of tokens can refuse it. */
  ceiling: number;
};

/** Units, null for no such limit. */
export type KeyLimits = {
  readonly minute: number | null;
  readonly tokens: number | null;
  readonly total: number | null;
  readonly day: number | null;
  readonly week: number | null;
  readonly month: number | null;
};

export type AddressRanges = { readonly ipv4: BlockList; readonly ipv6: BlockList };

/** What the database says about who asks and about the presented secret; null where there is no such thing. */
export type Facts = {
  /** The newest life-cycle event that they include, where they were read for one request; null where they are from memory, which knows. */
  readonly readAt: bigint | null;
  readonly token: TokenFacts | null;
  readonly organization: OrganizationFacts | null;
  readonly verifier: VerifierFacts | null;
};

/** Between which moments judgements hold, in microseconds since 1970; from `sinceUs` on and before `untilUs`. */
export type Validity = { sinceUs: number; untilUs: number };

export type Judgement = {
  /** As `admit` (migration 0011) takes it. */
  readonly code: number;
  /** Null unless the right secret was presented. */
  readonly key: KeyRules | null;
};

/** Codes of `admit` that are no outcome of a verification. */
export const CALLER_UNAUTHENTICATED = 100;
export const CALLER_FORBIDDEN = 101;
export const OTHER_PEPPER = 102;
export const REQUEST_ID_TAKEN = 103;

const VALID = codeNumber('VALID');
const INVALID_KEY = codeNumber('INVALID_KEY');
const INACTIVE = codeNumber('INACTIVE');
const EXPIRED = codeNumber('EXPIRED');
const PERMISSION_DENIED = codeNumber('PERMISSION_DENIED');
const WRONG_ENVIRONMENT = codeNumber('WRONG_ENVIRONMENT');
const IP_NOT_ALLOWED = codeNumber('IP_NOT_ALLOWED');
const ORIGIN_NOT_ALLOWED = codeNumber('ORIGIN_NOT_ALLOWED');

/**
 * All that speaks for and against a request but limits, balances and blocked addresses, in the order of checks that `admit` states; narrows `validity` to the time for
 * which that holds. Whoever lacks the secret, or asks for another organization, learns nothing of a key.
 */
export function judge(
  { token, organization, verifier }: Facts,
  asked: Asked,
  pepperId: string,
  nowUs: number,
  validity: Validity,
): Judgement {
  if (asked.caller.kind === 'token' && (token === null || !token.valid || hasPassed(token.expiresUs, nowUs, validity)))
    return { code: CALLER_UNAUTHENTICATED, key: null };
  if (token !== null && !token.mayVerify) return { code: CALLER_FORBIDDEN, key: null };
  if (
    verifier === null ||
    organization === null ||
    verifier.key.organizationId !== organization.id ||
    hasPassed(verifier.expiresUs, nowUs, validity)
  )
    return { code: INVALID_KEY, key: null };
  if (verifier.pepperId !== pepperId) return { code: OTHER_PEPPER, key: null };
  if (!sameMac(verifier.mac, asked.mac)) return { code: INVALID_KEY, key: null };
  return { code: judgeKey(verifier.key, asked, nowUs, validity), key: verifier.key };
}

function judgeKey(key: KeyRules, { request }: Asked, nowUs: number, validity: Validity): number {
  if (!key.active) return INACTIVE;
  if (hasPassed(key.expiresUs, nowUs, validity)) return EXPIRED;
  if (request.environment !== null && (request.environment === 'test') !== key.test) return WRONG_ENVIRONMENT;
  if (key.addresses !== null && (request.ip === null || !isWithin(request.ip, key.addresses))) return IP_NOT_ALLOWED;
  if (key.origins !== null && (request.origin === null || !key.origins.has(request.origin))) return ORIGIN_NOT_ALLOWED;
  return request.permissions.every((permission) => key.permissions.has(permission)) ? VALID : PERMISSION_DENIED;
}

function hasPassed(momentUs: number | null, nowUs: number, validity: Validity): boolean {
  if (momentUs === null) return false;
  if (momentUs <= nowUs) {
    validity.sinceUs = Math.max(validity.sinceUs, momentUs);
    return true;
  }
  validity.untilUs = Math.min(validity.untilUs, momentUs);
  return false;
}

/** The ranges of a key; null for none. An address is held against those of its own family alone, as Postgres does it. */
export function addressRanges(ranges: readonly string[]): AddressRanges | null {
  if (ranges.length === 0) return null;
  const lists = { ipv4: new BlockList(), ipv6: new BlockList() };
  for (const range of ranges) {
    const [address = '', bits] = range.split('/');
    const family = isIPv4(address) ? 'ipv4' : 'ipv6';
    lists[family].addSubnet(address, bits === undefined ? (family === 'ipv4' ? 32 : 128) : Number(bits), family);
  }
  return lists;
}

export function isWithin(address: string, ranges: AddressRanges): boolean {
  return isIPv4(address) ? ranges.ipv4.check(address, 'ipv4') : ranges.ipv6.check(address, 'ipv6');
}

/** Units that a key has used, within its windows and in all; null where nobody asked. */
export type KeyUsed = {
  readonly total: number;
  readonly minute: number | null;
  readonly day: number | null;
  readonly week: number | null;
  readonly month: number | null;
};

/** What a key that has used so much has left; null where it has no such limit. */
export function unitsLeft(limits: KeyLimits, used: KeyUsed) {
  return {
    minute: less(limits.minute, used.minute),
    total: less(limits.total, used.total),
    daily: less(limits.day, used.day),
    weekly: less(limits.week, used.week),
    monthly: less(limits.month, used.month),
  };
}

function less(limit: number | null, used: number | null): number | null {
  return limit === null || used === null ? null : limit - used;
}

/** See {@link KnownWindows}. */
export function ceilingOf(total: number, left: ReturnType<typeof unitsLeft>): number {
  let room = Number.MAX_SAFE_INTEGER - total;
  for (const units of [left.minute, left.total, left.daily, left.weekly, left.monthly]) if (units !== null && units < room) room = units;
  return total + room;
}
