import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { createAddressPolicy } from '../../src/webhooks/address-policy.ts';
import { postMessage } from '../../src/webhooks/post-message.ts';
import type { ResolveHost } from '../../src/webhooks/resolve-host.ts';
import { webhookUrlFault } from '../../src/webhooks/webhook-url.ts';
import { openReceiver, type Receiver } from './receiver.ts';

const PUBLIC_ONLY = createAddressPolicy([]);
const LOOPBACK = createAddressPolicy(['127.0.0.0/8']);

describe('6.3 where a webhook may go', () => {
  it.each([
    ['this host', '0.0.0.0'],
    ['this network', '0.1.2.3'],
    ['loopback', '127.0.0.1'],
    ['any loopback', '127.255.255.254'],
    ['private', '10.0.0.1'],
    ['private', '172.16.0.1'],
    ['private', '172.31.255.255'],
    ['private', '192.168.1.1'],
    ['link-local, where clouds keep their metadata', '169.254.169.254'],
    ['carrier-grade NAT', '100.64.0.1'],
    ['carrier-grade NAT to its end', '100.127.255.255'],
    ['multicast', '224.0.0.1'],
    ['broadcast', '255.255.255.255'],
    ['reserved', '240.0.0.1'],
    ['protocol assignments', '192.0.0.8'],
    ['documentation', '203.0.113.1'],
    ['benchmarking', '198.18.0.1'],
    ['IPv6 unspecified', '::'],
    ['IPv6 loopback', '::1'],
    ['IPv6 unique local', 'fd00::1'],
    ['IPv6 link-local', 'fe80::1'],
    ['IPv6 link-local with a zone', 'fe80::1%eth0'],
    ['IPv6 site-local', 'fec0::1'],
    ['IPv6 multicast', 'ff02::1'],
    ['IPv6 documentation', '2001:db8::1'],
    ['IPv4-mapped loopback', '::ffff:127.0.0.1'],
    ['IPv4-mapped private in hex', '::ffff:a00:1'],
    ['IPv4-compatible', '::127.0.0.1'],
    ['NAT64 of a private address', '64:ff9b::a00:1'],
    ['local NAT64', '64:ff9b:1::1'],
    ['6to4 of a private address', '2002:a00:1::1'],
    ['Teredo', '2001::1'],
    ['not assigned', '4000::1'],
    ['no address at all', 'localhost'],
  ])('not to %s: %s', (_what, address) => {
    expect(PUBLIC_ONLY.refusalOf(address)).not.toBeNull();
  });

  it.each(['1.1.1.1', '93.184.215.14', '172.32.0.1', '100.128.0.1', '2606:4700:4700::1111', '::ffff:1.1.1.1'])(
    'to the public address %s',
    (address) => {
      expect(PUBLIC_ONLY.refusalOf(address)).toBeNull();
    },
  );

  it('to private addresses that the operator allows, and to none beside them', () => {
    const policy = createAddressPolicy(['10.20.0.0/16', 'fd00::/8']);
    expect(policy.refusalOf('10.20.3.4')).toBeNull();
    expect(policy.refusalOf('::ffff:10.20.3.4')).toBeNull();
    expect(policy.refusalOf('fd12::1')).toBeNull();
    expect(policy.refusalOf('10.21.0.1')).not.toBeNull();
    expect(policy.refusalOf('127.0.0.1')).not.toBeNull();
    expect(policy.refusalOf('fe80::1')).not.toBeNull();
  });

  it.each([
    ['example.com/hook', /whole URL/],
    ['ftp://example.com', /begins with https/],
    ['http://example.com/', /begins with https/],
    ['https://user:password@example.com/', /user name and password/],
    ['https://example.com/#fragment', /fragment/],
    ['https://127.0.0.1/', /no public address/],
    ['https://127.1/', /no public address/],
    ['https://0x7f.0.0.1/', /no public address/],
    ['https://2130706433/', /no public address/],
    ['https://017700000001/', /no public address/],
    ['https://[::1]/', /no public address/],
    ['https://[::ffff:7f00:1]/', /no public address/],
    [`https://example.com/${'x'.repeat(2048)}`, /2048 characters/],
  ])('%s is no URL for an endpoint, and it is said why', (url, why) => {
    expect(webhookUrlFault(url, PUBLIC_ONLY)).toMatch(why);
  });

  it('https to a name is', () => {
    expect(webhookUrlFault('https://example.com:8443/hook?tenant=1', PUBLIC_ONLY)).toBeNull();
    expect(webhookUrlFault('http://10.0.0.1/hook', createAddressPolicy(['10.0.0.0/8']))).toBeNull();
  });
});

describe('6.3 a name that leads elsewhere', () => {
  let receiver: Receiver;
  beforeEach(async () => {
    receiver = await openReceiver();
  });
  afterEach(() => receiver.close());

  const post = (host: string, resolve: ResolveHost, policy = LOOPBACK, scheme = 'http') =>
    postMessage(
      { url: `${scheme}://${host}:${receiver.port}/hook`, headers: { 'content-type': 'application/json' }, body: '{}' },
      { policy, resolve, timeoutMs: 2000, signal: new AbortController().signal },
    );

  it('is connected to at the very address that was judged, whatever DNS answers the next time', async () => {
    let asked = 0;
    // The name of a rebinding attack: an allowed address at first, another one as soon as that was judged.
    const rebinding: ResolveHost = () => Promise.resolve([++asked === 1 ? '127.0.0.1' : '127.0.0.99']);
    expect(await post('rebinding.example', rebinding)).toMatchObject({ status: 200, error: null });
    expect(asked).toBe(1);
    expect(receiver.received[0]?.headers['host']).toBe(`rebinding.example:${receiver.port}`);
  });

  it('the control: to connect by name after judging the name asks twice, and ends where nobody looked', async () => {
    let asked = 0;
    const rebinding: ResolveHost = () => Promise.resolve([++asked === 1 ? '1.1.1.1' : '127.0.0.1']);
    const never = new AbortController().signal;
    const [judged] = await rebinding('rebinding.example', never);
    const [connected] = await rebinding('rebinding.example', never);
    expect(PUBLIC_ONLY.refusalOf(judged ?? '')).toBeNull();
    expect(PUBLIC_ONLY.refusalOf(connected ?? '')).not.toBeNull();
  });

  it('to a private address gets nothing sent, and the log of deliveries says so', async () => {
    const posted = await post('internal.example', () => Promise.resolve(['127.0.0.1']), PUBLIC_ONLY, 'https');
    expect(posted).toMatchObject({ status: null, error: 'Nothing was sent: 127.0.0.1 is no public address (loopback).' });
    expect(receiver.received).toHaveLength(0);
  });

  it('to a public and a private address at once gets nothing sent', async () => {
    const posted = await post('both.example', () => Promise.resolve(['1.1.1.1', '::ffff:127.0.0.1']), PUBLIC_ONLY, 'https');
    expect(posted.error).toMatch(/^Nothing was sent: 127\.0\.0\.1 is no public address/);
    expect(receiver.received).toHaveLength(0);
  });

  it('gets no plain http where its address is not one of those that the operator has allowed', async () => {
    const posted = await post('public.example', () => Promise.resolve(['1.1.1.1']), LOOPBACK);
    expect(posted.error).toMatch(/plain http goes to the private networks of WEBHOOK_ALLOW_PRIVATE alone/);
  });

  it('is not asked for where the URL has an address', async () => {
    const nobody: ResolveHost = () => Promise.reject(new Error('nobody should ask'));
    expect(await post('127.0.0.1', nobody)).toMatchObject({ status: 200 });
  });

  it('or to nothing, or whose servers never answer, is told as it is', async () => {
    expect((await post('nothing.example', () => Promise.resolve([]))).error).toBe('Nothing was sent: the name has no address.');
    expect((await post('broken.example', () => Promise.reject(new Error('The name broken.example has no address')))).error).toMatch(
      /has no address/,
    );
    expect((await post('hangs.example', () => new Promise(() => undefined))).error).toBe('No answer within 2 seconds.');
  });
});
