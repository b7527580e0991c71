import type pg from 'pg';

import type { Secret } from '../lib/secret.ts';
import { typeParsers } from './type-parsers.ts';

export const SCHEMA = 'keyledger';
export const SERVER_ROLE = 'keyledger_server';

const DEFAULT_STATEMENT_TIMEOUT_MS = 15_000;
const LOCK_TIMEOUT_MS = 10_000;
const IDLE_IN_TRANSACTION_TIMEOUT_MS = 30_000;
const CONNECT_TIMEOUT_MS = 10_000;
/** How much longer the client waits than the server is allowed to work: the server's own, harmless answer (57014) comes first. */
const CLIENT_PATIENCE_MS = 5_000;

export type ConnectionSettings = {
  readonly connectionString: Secret;
  readonly applicationName: string;
  /** The role every session works as; `keyledger_server` unless told. `null` works as the login itself. */
  readonly role?: string | null;
  /** 0 switches every time limit of statements off (migrations, rebuilds). Milliseconds. */
  readonly statementTimeoutMs?: number;
  /** When this side stops waiting for an answer; later than `statementTimeoutMs`, and 5 seconds later unless told. Milliseconds. */
  readonly queryTimeoutMs?: number;
};

/**
 * The settings of one connection, the same for a pool's clients and for a client of its own (LISTEN, pipelined batches).
 *
 * Role, search path and limits are startup options and not `SET` statements: they are the session's defaults, so `RESET` and
 * `DISCARD ALL` come back to them, and no borrower of a pooled connection can inherit what another one set.
 */
export function clientConfig(settings: ConnectionSettings): pg.ClientConfig {
  const statementTimeoutMs = settings.statementTimeoutMs ?? DEFAULT_STATEMENT_TIMEOUT_MS;
  const role = settings.role === undefined ? SERVER_ROLE : settings.role;
  const { connectionString, urlOptions } = withoutOverrides(settings.connectionString.reveal());
  const startup = [
    urlOptions,
    `-c search_path=${SCHEMA}`,
    `-c timezone=UTC`,
    role === null ? undefined : `-c role=${assertIdentifier(role)}`,
    // A broken network must not keep a lock for the two hours of the kernel's default.
    `-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3`,
  ];
  return {
    connectionString,
    application_name: settings.applicationName,
    options: startup.filter((part) => part !== undefined).join(' '),
    types: typeParsers,
    keepAlive: true,
    keepAliveInitialDelayMillis: 30_000,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    ...(statementTimeoutMs > 0
      ? {
          statement_timeout: statementTimeoutMs,
          query_timeout: settings.queryTimeoutMs ?? statementTimeoutMs + CLIENT_PATIENCE_MS,
          lock_timeout: Math.min(LOCK_TIMEOUT_MS, statementTimeoutMs),
          idle_in_transaction_session_timeout: IDLE_IN_TRANSACTION_TIMEOUT_MS,
        }
      : {}),
  };
}

/**
 * In pg what the URL says wins over what the config says. These two are ours, so they leave the URL; its `options` are kept, in front of ours.
 */
function withoutOverrides(connectionString: string): { connectionString: string; urlOptions: string | undefined } {
  const url = new URL(connectionString);
  const urlOptions = url.searchParams.get('options') ?? undefined;
  url.searchParams.delete('options');
  url.searchParams.delete('application_name');
  return { connectionString: url.toString(), urlOptions };
}

function assertIdentifier(name: string): string {
  if (!/^[a-z_][a-z0-9_]{0,62}$/.test(name)) throw new Error(`not a plain role name: ${JSON.stringify(name)}`);
  return name;
}
