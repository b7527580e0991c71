import { Resolver } from 'node:dns/promises';

const QUERY_TIMEOUT_MS = 3000;

/** All addresses of a name. Rejects where it has none, or nobody answers. */
export type ResolveHost = (hostname: string, signal: AbortSignal) => Promise<readonly string[]>;

/**
 * Asks DNS itself. Not `dns.lookup`, whose threads are the same that hash and read files: a few names whose servers never answer would hold up all of those.
 * So names in the hosts file are not known here, but for localhost, which RFC 6761 gives to the loopback.
 */
export const resolveHost: ResolveHost = async (hostname, signal) => {
  const name = hostname.toLowerCase().replace(/\.$/, '');
  if (name === 'localhost' || name.endsWith('.localhost')) return ['127.0.0.1', '::1'];
  const resolver = new Resolver({ timeout: QUERY_TIMEOUT_MS, tries: 2 });
  const cancel = (): void => {
    resolver.cancel();
  };
  signal.addEventListener('abort', cancel, { once: true });
  try {
    const answers = await Promise.allSettled([resolver.resolve4(name), resolver.resolve6(name)]);
    const addresses = answers.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []));
    if (addresses.length > 0) return addresses;
    const failed = answers.find((answer) => answer.status === 'rejected');
    throw new Error(`The name ${name} has no address`, { cause: failed?.reason });
  } finally {
    signal.removeEventListener('abort', cancel);
  }
};
