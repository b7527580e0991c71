import ipaddr from 'ipaddr.js';

/**
 * The one spelling of an address: IPv4 dotted, IPv6 as RFC 5952 writes it, an IPv4-mapped IPv6 address (`::ffff:192.0.2.1`) as the IPv4 address that it is, so that a
 * rule for the one can't be passed by the other. Null where the text is no address; a zone (`fe80::1%eth0`) means something on one machine only and is none.
 */
export function normalizeIp(text: string): string | null {
  // Four decimal parts alone: `0x7f.1`, `010.0.0.1` and `2130706433` are read differently by different programs.
  if (ipaddr.IPv4.isValidFourPartDecimal(text)) return text;
  if (text.includes('%') || !ipaddr.IPv6.isValid(text)) return null;
  const address = ipaddr.IPv6.parse(text);
  return address.isIPv4MappedAddress() ? address.toIPv4Address().toString() : address.toRFC5952String();
}
