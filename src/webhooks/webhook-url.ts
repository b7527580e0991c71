import type { AddressPolicy } from './address-policy.ts';

const MAX_LENGTH = 2048;

/** What is wrong with an endpoint's URL, as a sentence for its field; null where it can be used. Names are resolved at each delivery, not here. */
export function webhookUrlFault(text: string, policy: AddressPolicy): string | null {
  if (text.length > MAX_LENGTH) return `give a URL of ${MAX_LENGTH} characters at most`;
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null) return "give a whole URL, such as 'https://example.com/webhooks'";
  if (url.protocol !== 'https:' && url.protocol !== 'http:') return 'give a URL that begins with https://';
  if (url.protocol === 'http:' && !policy.allowsPrivate)
    return 'give a URL that begins with https:// (plain http is for the private networks of WEBHOOK_ALLOW_PRIVATE)';
  if (url.username !== '' || url.password !== '')
    return 'leave user name and password out of the URL: it stands in the log, and the signature tells who sends';
  if (url.hash !== '') return 'leave the fragment (#…) out of the URL: it is never sent';
  const literal = literalAddress(url);
  const refused = literal === null ? null : policy.refusalOf(literal);
  return refused === null ? null : `${refused}; deliveries go to public addresses alone, unless WEBHOOK_ALLOW_PRIVATE names others`;
}

/** The address that stands in a URL instead of a name; the URL's parser has already made `0x7f.1` and the like plain. */
export function literalAddress(url: URL): string | null {
  if (url.hostname.startsWith('[')) return url.hostname.slice(1, -1);
  return /^\d+\.\d+\.\d+\.\d+$/.test(url.hostname) ? url.hostname : null;
}
