import { randomBytes } from 'node:crypto';
import { access } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

import type { BenchPostgres } from '../database/bench-postgres.ts';
import { startChild } from '../processes/child.ts';
import { startIpcServer } from './ipc-server.ts';
import { NODE_FLAGS, type Subject } from './keyledger-server.ts';

const PEERS = fileURLToPath(new URL('../peers/', import.meta.url));
const INSTALL_MS = 300_000;
/** As many connections as a keyledger server has by default. */
const POOL_SIZE = 10;

export type BetterAuth = Subject & { readonly keys: readonly string[] };

/** better-auth with its API key plugin on a database of its own in the same Postgres. Installs it first where that was not done. */
export async function startBetterAuth(
  postgres: BenchPostgres,
  options: { readonly keys: number; readonly signal: AbortSignal; readonly onProgress: (line: string) => void },
): Promise<BetterAuth> {
  await install(options);
  const { ownerUrl } = await postgres.createDatabase('better_auth');
  options.onProgress(`better-auth makes ${options.keys} keys`);
  const server = await startIpcServer<{ readonly port: number; readonly keys: readonly string[] }>({
    what: 'better-auth',
    args: [...NODE_FLAGS, 'better-auth-server.mjs'],
    cwd: PEERS,
    env: {
      DATABASE_URL: ownerUrl.reveal(),
      POOL_SIZE: String(POOL_SIZE),
      SECRET: randomBytes(32).toString('hex'),
      KEYS: String(options.keys),
      NODE_ENV: 'production',
      BETTER_AUTH_TELEMETRY: '0',
    },
    startMs: 120_000,
    signal: options.signal,
  });
  return { ...server, keys: server.told.keys };
}

async function install({
  signal,
  onProgress,
}: {
  readonly signal: AbortSignal;
  readonly onProgress: (line: string) => void;
}): Promise<void> {
  const installed = await access(`${PEERS}node_modules/better-auth`).then(
    () => true,
    () => false,
  );
  if (installed) return;
  onProgress('installing better-auth (npm ci in bench/peers)');
  const npm = startChild({ command: 'npm', args: ['ci'], cwd: PEERS, env: npmSettings() });
  const late = AbortSignal.any([signal, AbortSignal.timeout(INSTALL_MS)]);
  late.addEventListener('abort', () => void npm.stop(), { once: true });
  await npm.ended;
  late.throwIfAborted();
  if (npm.process.exitCode !== 0) throw new Error(`npm ci in bench/peers failed: ${npm.said().trim()}`);
}

/** A registry or proxy that npm was told of by its environment holds for this one too. */
function npmSettings(): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(process.env).filter(([name]) => /^npm_config_|^(https?|no)_proxy$|^NODE_EXTRA_CA_CERTS$/i.test(name)),
  );
}
