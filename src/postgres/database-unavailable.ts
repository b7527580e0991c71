const NETWORK_CODES = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOENT',
  'ENOTFOUND',
  'EAI_AGAIN',
]);
/** What pg and its pool say, without any code, when they get no connection or no answer in time. */
const CODELESS =
  /timeout exceeded when trying to connect|Connection terminated|connection timeout|Query read timeout|Client has encountered a connection error|Client was closed|Cannot use a pool after calling end/i;

/**
 * Whether an error says that the database could not be asked, or not in time, so that the same request may pass a little later: connection exceptions (08), a server that lets nobody in
 * (28, 3D), too many connections (53), shutdown, start-up and time-outs (57), or no verdict of the server at all.
 */
export function isDatabaseUnavailable(error: unknown): boolean {
  if (error instanceof AggregateError) return error.errors.some(isDatabaseUnavailable);
  if (!(error instanceof Error)) return false;
  const code = 'code' in error ? error.code : undefined;
  if (typeof code === 'string') return NETWORK_CODES.has(code) || ('severity' in error && /^(?:08|28|3D|53|57)/.test(code));
  return CODELESS.test(error.message);
}
