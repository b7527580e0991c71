import ipaddr from 'ipaddr.js';

/**
 * The one spelling of an address: IPv4 dotted, IPv6 as RFC 5952 writes it, an IPv4-mapped IPv6 address (`::ffff:192.0.2.1`) as the IPv4 address that it is, so that a
 * rule for the one can't be passed by the other. Null where the text is no address; a zone (`fe80::1%eth0`) means something on one machine only and is none.
 */
export function normalizeIp(text: string): string | null {
  // Four decimal parts alone: `0x7f.1`, `010.0.0.1` and `2130706433` are read differently by different programs.
  if (ipaddr.IPv4.isValidFourPartDecimal(text)) return text;
  // The deprecated IPv4-compatible form is an address of its own, which ipaddr.js takes for a mapped one. Nobody sends from it.
  if (text.includes('%') || /^::\d+\./.test(text) || !ipaddr.IPv6.isValid(text)) return null;
  const address = ipaddr.IPv6.parse(text);
  return address.isIPv4MappedAddress() ? address.toIPv4Address().toString() : address.toRFC5952String();
}

const PLAIN_IPV4 = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/;

/** The 4 or 16 bytes of an address in its one spelling ({@link normalizeIp}). */
export function addressBytes(address: string): readonly number[] {
  const parts = PLAIN_IPV4.exec(address);
  return parts === null
    ? ipaddr.IPv6.parse(address).toByteArray()
    : [Number(parts[1]), Number(parts[2]), Number(parts[3]), Number(parts[4])];
}

const MAPPED_PREFIX_BITS = 96;

/**
 * The one spelling of a CIDR range, host bits cleared; an address alone is the range of itself. Addresses are held against ranges in their one spelling, so a range of
 * IPv4-mapped addresses (`::ffff:192.0.2.0/120`) is the IPv4 range that it stands for. Null where the text is no range.
 */
export function normalizeIpRange(text: string): string | null {
  const [address = '', prefix, ...rest] = text.split('/');
  const normal = normalizeIp(address);
  if (normal === null || rest.length > 0 || (prefix !== undefined && !/^(?:0|[1-9]\d{0,2})$/.test(prefix))) return null;
  const writtenBits = address.includes(':') ? 128 : 32;
  const written = prefix === undefined ? writtenBits : Number(prefix);
  if (written > writtenBits) return null;
  const isIpv4 = !normal.includes(':');
  if (isIpv4 && writtenBits === 32) return `${ipaddr.IPv4.networkAddressFromCIDR(`${normal}/${written}`).toString()}/${written}`;
  if (isIpv4 && written >= MAPPED_PREFIX_BITS) {
    const bits = written - MAPPED_PREFIX_BITS;
    return `${ipaddr.IPv4.networkAddressFromCIDR(`${normal}/${bits}`).toString()}/${bits}`;
  }
  // As it was written: a range above the mapped addresses is one of IPv6.
  return `${ipaddr.IPv6.networkAddressFromCIDR(`${ipaddr.IPv6.parse(address).toNormalizedString()}/${written}`).toRFC5952String()}/${written}`;
}
