import type { VerifiedKey } from '../admission/admission.ts';

/**
 * What a gateway hands to the service behind it. All of them are sent each time, empty where there is nothing to say: some gateways copy only what an answer has, and would let the end client's own
 * header of that name through.
 */
export function keyHeaders(
  { id, name, organizationId, permissions, profile, outdatedSecret }: VerifiedKey,
  requestId: string,
): Record<string, string> {
  return {
    'x-key-id': id,
    'x-key-name': headerText(name),
    'x-key-organization': organizationId,
    'x-key-permissions': permissions.join(','),
    'x-key-profile': profile === null ? '' : headerText(profile.name),
    'x-key-outdated': outdatedSecret ? 'true' : '',
    'x-key-request-id': requestId,
  };
}

/** Percent-encodes, in UTF-8, whatever is not printable ASCII, and `%` itself, so that nothing can break out of the header and `decodeURIComponent` gives the text back. */
export function headerText(text: string): string {
  return text.toWellFormed().replace(/[^\x20-\x24\x26-\x7e]+/gu, encodeURIComponent);
}
