import type { IncomingMessage } from 'node:http';

import ipaddr from 'ipaddr.js';

import { normalizeIp } from '../lib/ip-address.ts';

/**
 * The address of the client. X-Forwarded-For is believed only where the direct peer is a trusted proxy, and is read from right to left up to the first address that is none:
 * what stands left of it, the client may have written itself. `trustedProxies`: CIDRs.
 */
export function createClientAddress(trustedProxies: readonly string[]): (request: IncomingMessage) => string | null {
  const forwarded = createForwardedAddress(trustedProxies);
  return (request) => forwarded(request) ?? peerAddress(request);
}

/**
 * The same where the direct peer is a gateway and never the client itself: null unless that is a trusted proxy and tells an address. A gateway's own address must not be blocked, or let in, for what its clients do.
 */
export function createForwardedAddress(trustedProxies: readonly string[]): (request: IncomingMessage) => string | null {
  const ranges = trustedProxies.map((cidr) => ipaddr.parseCIDR(cidr));
  const trusted = (address: string): boolean => {
    const parsed = ipaddr.parse(address);
    return ranges.some(([network, bits]) => network.kind() === parsed.kind() && parsed.match(network, bits));
  };
  return (request) => {
    if (ranges.length === 0) return null;
    const peer = peerAddress(request);
    if (peer === null || !trusted(peer)) return null;
    let address: string | null = null;
    const hops = String(request.headers['x-forwarded-for'] ?? '').split(',');
    for (const hop of hops.reverse()) {
      const next = normalizeIp(withoutPort(hop.trim()));
      if (next === null) return address;
      address = next;
      if (!trusted(address)) return address;
    }
    return address;
  };
}

/** A zone names the interface that the peer came in by and is no part of what we compare. */
function peerAddress(request: IncomingMessage): string | null {
  return normalizeIp(request.socket.remoteAddress?.replace(/%.*$/, '') ?? '');
}

/** Some proxies write `192.0.2.1:4711` and `[2001:db8::1]:4711`. */
function withoutPort(hop: string): string {
  const bracketed = /^\[([^\]]+)\](?::\d+)?$/.exec(hop);
  if (bracketed?.[1] !== undefined) return bracketed[1];
  return /^\d+\.\d+\.\d+\.\d+:\d+$/.test(hop) ? hop.slice(0, hop.indexOf(':')) : hop;
}
