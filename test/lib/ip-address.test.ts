import { describe, expect, it } from 'vitest';

import { normalizeIp, normalizeIpRange } from '../../src/lib/ip-address.ts';

describe('an IP range', () => {
  it.each([
    ['203.0.113.7', '203.0.113.7/32'],
    ['203.0.113.7/24', '203.0.113.0/24'],
    ['0.0.0.0/0', '0.0.0.0/0'],
    ['2001:DB8:0::7', '2001:db8::7/128'],
    ['2001:db8:abcd::7/32', '2001:db8::/32'],
    ['::/0', '::/0'],
    ['::ffff:203.0.113.7', '203.0.113.7/32'],
    ['::ffff:203.0.113.7/120', '203.0.113.0/24'],
    ['::ffff:0:0/96', '0.0.0.0/0'],
    ['::ffff:203.0.113.7/64', '::/64'],
  ])('%s is %s', (given, normal) => {
    expect(normalizeIpRange(given)).toBe(normal);
    expect(normalizeIpRange(normal)).toBe(normal);
  });

  it.each([
    '',
    'x',
    '/24',
    '203.0.113.7/',
    '203.0.113.7/33',
    '2001:db8::/129',
    '203.0.113/24',
    '0x7f.1',
    '::192.0.2.1',
    '010.0.0.1/8',
    'fe80::1%eth0/64',
    '10.0.0.0/08',
    '10.0.0.0/8/8',
    '10.0.0.0/-1',
    '10.0.0.0/ 8',
  ])('%j is none', (given) => {
    expect(normalizeIpRange(given)).toBeNull();
  });

  it('and an address have one spelling', () => {
    expect(normalizeIp('::FFFF:203.0.113.7')).toBe('203.0.113.7');
    expect(normalizeIp('2001:0db8::0007')).toBe('2001:db8::7');
  });
});
