import type { Secret } from '../lib/secret.ts';
import { SERVER_ROLE } from './client-config.ts';
import { isDatabaseUnavailable } from './database-unavailable.ts';

/** What pg says, without a code, when it is asked for a password and was given none. */
const NO_PASSWORD = /client password must be a (?:non-empty )?string/;

/** The database of a URL can't be worked with; the message is {@link explainConnectionFailure}'s. */
export class NoConnection extends Error {
  override readonly name = 'NoConnection';
}

/** Runs `work` on the database of `url`; throws {@link NoConnection} where Postgres, or the way to it, refused. Other errors come through as they are. */
export async function explainingFailure<Result>(url: Secret, work: () => Promise<Result>): Promise<Result> {
  try {
    return await work();
  } catch (cause) {
    const ofPostgres = cause instanceof Error && ('code' in cause || NO_PASSWORD.test(cause.message) || isDatabaseUnavailable(cause));
    throw ofPostgres ? new NoConnection(explainConnectionFailure(cause, url), { cause }) : cause;
  }
}

/** Why no connection came about, in one sentence with what to do, and without the password. */
export function explainConnectionFailure(error: unknown, url: Secret): string {
  const text = url.reveal();
  if (!URL.canParse(text))
    return 'The database URL is no URL; it takes postgres://user:password@host:port/database, with special characters percent-encoded.';
  const parsed = new URL(text);
  // As in libpq and node-postgres, the parameter goes before the name; a path is that of a directory with a Unix socket.
  const host = parsed.searchParams.get('host') || parsed.hostname || 'localhost';
  const port = parsed.port || '5432';
  const login = safelyDecoded(parsed.username) || 'the login';
  const database = safelyDecoded(parsed.pathname.slice(1)) || login;
  const at = `Postgres at ${host.startsWith('/') ? `${host}/.s.PGSQL.${port}` : `${host}:${port}`}`;
  const code = codeOf(error);
  const message = withoutPassword(error instanceof Error ? error.message : String(error), parsed.password);
  switch (code) {
    case 'ECONNREFUSED':
    case 'ENOENT':
      return `Nothing answers as ${at}: check host and port of the database URL, and that the server runs.`;
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return `The host ${host} of the database URL has no address: check its name.`;
    case 'EHOSTUNREACH':
    case 'ENETUNREACH':
    case 'ETIMEDOUT':
      return `${at} can't be reached from here: check host and port of the database URL, and what lies between.`;
    case 'ECONNRESET':
    case 'EPIPE':
      return `${at} closed the connection: check that it is a Postgres server, and its log.`;
    case '28P01':
      return `${at} refused the password of ${login}: check user and password in the database URL.`;
    case '28000':
      return `${at} does not let ${login} in (${message}): check the user in the database URL and the server's pg_hba.conf.`;
    case '3D000':
      return `${at} has no database ${database}: create it (CREATE DATABASE ${quoted(database)};) or correct the database URL.`;
    case '53300':
      return `${at} takes no more connections: raise its max_connections or lower DATABASE_POOL_SIZE.`;
    case '57P03':
      return `${at} is starting up or shutting down: try again in a moment.`;
    case '22023':
    case '42501':
      return message.includes(SERVER_ROLE)
        ? `${at}: ${login} can't work as ${SERVER_ROLE}; migrate first (npm run migrate), then have an administrator run: GRANT ${SERVER_ROLE} TO ${quoted(login)};`
        : `${at} refused ${login} the database ${database} (${message}): have an administrator run: GRANT CONNECT ON DATABASE ${quoted(database)} TO ${quoted(login)};`;
    default:
      if (NO_PASSWORD.test(message)) return `${at} asks ${login} for a password, and the database URL has none: add it.`;
      if (/timeout|timed out/i.test(message))
        return `${at} did not answer in time: check host and port of the database URL, and what lies between.`;
      if (/does not support SSL/i.test(message))
        return `${at} has no TLS: remove sslmode from the database URL, or turn ssl on in the server.`;
      if (/certificate|self[- ]signed/i.test(message))
        return `${at} shows a certificate that is not trusted here (${message}): name its authority with sslrootcert in the database URL.`;
      return `No connection to ${at}, database ${database}, as ${login}: ${message}`;
  }
}

/** A host with several addresses fails with an AggregateError; its parts say the same. */
function codeOf(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  if ('code' in error && typeof error.code === 'string') return error.code;
  if (error instanceof AggregateError) return codeOf(error.errors[0]);
  return error.cause === undefined ? undefined : codeOf(error.cause);
}

function withoutPassword(message: string, password: string): string {
  if (password === '') return message;
  return [password, safelyDecoded(password)].reduce((rest, secret) => rest.replaceAll(secret, '[redacted]'), message);
}

function safelyDecoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function quoted(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}
