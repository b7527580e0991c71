import { pino } from 'pino';

import { ConfigError, readConfig, type Config } from './config.ts';
import { errorForLog } from './lib/error-for-log.ts';
import { UnsafeDatabase } from './postgres/boot-checks.ts';
import { NoConnection } from './postgres/connection-failure.ts';
import { PostgresStartFailure } from './postgres/embedded-process.ts';
import { MigrationRefused } from './postgres/migrate.ts';
import type { RunningServer } from './start-server.ts';

/** Where the process speaks: lines for people on `out`, sentences about faults on `err`. */
export type Io = { readonly out: (line: string) => void; readonly err: (line: string) => void };

/** Runs a server until SIGINT or SIGTERM. Answers the process's exit code: 0 stopped as asked, 1 could not start or go on. */
export async function serve(env: NodeJS.ProcessEnv, io: Io): Promise<number> {
  let config: Config;
  try {
    config = readConfig(env);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    io.err(error.message);
    return 1;
  }
  // Lines for people go to standard output, the log in JSON to standard error.
  const logger = pino(
    { level: config.logLevel, serializers: { err: (error: unknown) => errorForLog(error) } },
    pino.destination({ dest: 2, sync: true }),
  );
  const stopping = new AbortController();
  const asked = Promise.withResolvers<string>();
  const onSignal = (name: NodeJS.Signals): void => {
    asked.resolve(`Received ${name}.`);
    stopping.abort();
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  try {
    // Loaded here: settings that are wrong are told at once, and a signal is heard, before the second that the server's parts take.
    const { startServer } = await import('./start-server.ts');
    const server = await startServer(config, { logger, signal: stopping.signal, onProgress: io.out });
    io.out(greeting(server));
    const failure = await Promise.race([asked.promise.then(() => null), server.failed]);
    if (failure !== null) io.err(failure);
    else io.out('keyledger is stopping.');
    await server.close();
    return failure === null ? 0 : 1;
  } catch (error) {
    if (stopping.signal.aborted) return 0;
    io.err(explainStartFailure(error, config));
    return 1;
  } finally {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal);
  }
}

function greeting({ url, firstOwner }: RunningServer): string {
  const places = [
    `keyledger listens on ${url}`,
    `  GraphQL and GraphiQL  ${url}/graphql`,
    `  Verification          ${url}/v1/verify`,
    `  Health and metrics    ${url}/readyz  ${url}/metrics`,
  ];
  if (firstOwner === null) return places.join('\n');
  if (!firstOwner.generated) return [...places, '', 'The first owner signs in with the BOOTSTRAP_TOKEN.'].join('\n');
  const token = firstOwner.token.reveal(); // the one time that it is shown
  return [
    ...places,
    '',
    "The first owner's access token, shown only now:",
    `  ${token}`,
    '',
    'A first request to paste:',
    `  curl -s ${url}/graphql -H 'authorization: Bearer ${token}' -H 'content-type: application/json' \\`,
    `    -d '{"query":"{ viewer { actorId role organization { id name plan } } }"}'`,
  ].join('\n');
}

/** One sentence for what can be foreseen; the stack only for what can't. */
function explainStartFailure(error: unknown, config: Config): string {
  if (
    error instanceof UnsafeDatabase ||
    error instanceof MigrationRefused ||
    error instanceof PostgresStartFailure ||
    error instanceof NoConnection
  )
    return error.message;
  const code = codeOf(error);
  if (code === 'EADDRINUSE') return `Port ${config.port} on ${config.host} is in use; stop what listens there, or set PORT to another one.`;
  if (code === 'EACCES' && syscallOf(error) === 'listen')
    return `Port ${config.port} may not be used by this user; set PORT to one above 1023.`;
  if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND')
    return `HOST ${config.host} is no address of this machine; set HOST to one that is, such as 127.0.0.1.`;
  return error instanceof Error ? error.message : String(error);
}

function codeOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

function syscallOf(error: unknown): unknown {
  return error instanceof Error && 'syscall' in error ? error.syscall : undefined;
}

if (import.meta.main) {
  process.exitCode = await serve(process.env, {
    out: (line) => process.stdout.write(`${line}\n`),
    err: (line) => process.stderr.write(`${line}\n`),
  });
}
