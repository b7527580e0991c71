/** Random text: 20 characters or more in one run with a digit among them, or a run that is longer than any name. */
const CREDENTIAL_LIKE = /(?=[\w+/=-]{0,60}\d)[\w+/=-]{20,}|[\w+/=-]{33,}/g;

/**
 * A message without what looks like a key, a token or another random text in it. For sentences about a malformed request that quote it: callers write those into
 * logs of their own, and what was malformed may be a secret in the wrong place.
 */
export function withoutCredentials(message: string): string {
  return message.replaceAll(CREDENTIAL_LIKE, '[redacted]');
}
