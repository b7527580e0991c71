import type { Logger } from 'pino';

const PAUSE_MS = 1000;

/**
 * Logs that the database could not be asked, at most once a second with the number of requests that met it since: in an outage every request does, and a line for each would
 * fill the disk.
 */
export function createOutageLog(logger: Logger): (error: unknown, route: string) => void {
  let silentUntilMs = 0;
  let requests = 0;
  return (error, route) => {
    requests++;
    const nowMs = performance.now();
    if (nowMs < silentUntilMs) return;
    silentUntilMs = nowMs + PAUSE_MS;
    logger.warn({ err: error, route, requests }, 'the database could not be asked');
    requests = 0;
  };
}
