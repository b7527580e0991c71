import ipaddr from 'ipaddr.js';

import { normalizeIp } from '../lib/ip-address.ts';

/** Which addresses a delivery may connect to. */
export type AddressPolicy = {
  /** Whether the operator has allowed private addresses, and with them plain http. */
  readonly allowsPrivate: boolean;
  /** Whether the operator has allowed this address beside the public ones. */
  allowedByOperator(address: string): boolean;
  /** Why nothing may be delivered to an address; null where it may. */
  refusalOf(address: string): string | null;
};

/** What is assigned of IPv6 as global unicast (RFC 4291); everything else has another meaning or none yet. */
const GLOBAL_UNICAST = ipaddr.IPv6.parseCIDR('2000::/3');

/**
 * Public addresses, and those in `allowPrivate` (CIDRs). A request that the server makes on somebody's behalf must not reach what only the server can reach:
 * its own host, its network, the metadata service of a cloud (169.254.169.254).
 */
export function createAddressPolicy(allowPrivate: readonly string[]): AddressPolicy {
  const allowed = allowPrivate.map((cidr) => ipaddr.parseCIDR(cidr));

  function allowedByOperator(text: string): boolean {
    const normal = normalizeIp(text);
    if (normal === null) return false;
    const address = ipaddr.parse(normal);
    return allowed.some(([range, bits]) => range.kind() === address.kind() && address.match(range, bits));
  }

  return {
    allowsPrivate: allowed.length > 0,
    allowedByOperator,
    refusalOf(text) {
      // An IPv4-mapped IPv6 address is judged as the IPv4 address that it is.
      const normal = normalizeIp(text);
      if (normal === null) return `${text} is no address`;
      if (allowedByOperator(normal)) return null;
      const address = ipaddr.parse(normal);
      const range = address.range();
      if (range !== 'unicast') return `${normal} is no public address (${range})`;
      if (address.kind() === 'ipv6' && !address.match(...GLOBAL_UNICAST)) return `${normal} is no public address (not global unicast)`;
      return null;
    },
  };
}
