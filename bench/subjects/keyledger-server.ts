import { fileURLToPath } from 'node:url';

import type { LedgerDatabase } from '../database/ledger-database.ts';
import { startChild, waitFor, type Child } from '../processes/child.ts';

const MAIN = fileURLToPath(new URL('../../src/main.ts', import.meta.url));
const START_MS = 60_000;
/**
 * As `npm start` gives them. Most of what a request leaves is gone before the young generation is full; and two threads help to collect garbage instead of four, which on two cores take the
 * server's own thread its place for up to 75 ms. The bare server gets the same.
 */
export const NODE_FLAGS = [
  '--max-semi-space-size=64',
  '--v8-pool-size=2',
  '--heap-growing-percent=100',
  '--no-allocation-site-pretenuring',
] as const;

export type Subject = { readonly pid: number; readonly port: number; stop(): Promise<void> };

/** The product as `npm start` runs it. With `profileDir` it writes a V8 CPU profile there when it stops. */
export async function startKeyledger(
  { env }: Pick<LedgerDatabase, 'env'>,
  options: { readonly profileDir: string | undefined; readonly signal: AbortSignal },
): Promise<Subject & { readonly child: Child }> {
  const profiling = options.profileDir === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${options.profileDir}`];
  const child = startChild({ args: [...NODE_FLAGS, ...profiling, MAIN], env: { ...env, HOST: '127.0.0.1', PORT: '0' } });
  try {
    const port = await waitFor(
      child,
      'keyledger',
      START_MS,
      options.signal,
      () => /^keyledger listens on http:\/\/127\.0\.0\.1:(\d+)$/m.exec(child.said())?.[1],
    );
    return { child, pid: child.pid, port: Number(port), stop: () => child.stop() };
  } catch (error) {
    await child.stop();
    throw error;
  }
}
