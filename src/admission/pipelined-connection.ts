import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';

import { GuardedClient } from '../postgres/guarded-client.ts';
import { AdmissionUnavailableError } from './admission.ts';

const FIRST_RETRY_MS = 50;
const LONGEST_RETRY_MS = 2000;

/** One connection that carries several statements at once, each standing alone; made anew when it breaks. */
export type PipelinedConnection = {
  /** Throws AdmissionUnavailableError where there is no connection or it breaks before the answer: then nobody knows whether the statement took effect. */
  query<Row extends pg.QueryResultRow>(query: pg.QueryConfig): Promise<readonly Row[]>;
  connected(): boolean;
  /** Resolves when there is a connection, however long that takes. Throws when `signal` says that nobody waits any more. */
  whenConnected(signal: AbortSignal): Promise<void>;
  close(): Promise<void>;
};

export function openPipelinedConnection(options: {
  readonly config: pg.ClientConfig;
  readonly onError: (error: Error) => void;
  /** Before the first statement on a connection. */
  readonly onConnect: () => void;
}): PipelinedConnection {
  const closing = new AbortController();
  let newest: GuardedClient | undefined;
  let current: GuardedClient | undefined;
  let ready = Promise.withResolvers<void>();

  async function keepConnected(): Promise<void> {
    let retryMs = FIRST_RETRY_MS;
    while (!closing.signal.aborted) {
      const client = new GuardedClient({ ...options.config, pipeline: true });
      newest = client;
      const ended = new Promise<void>((resolve) => client.once('end', resolve));
      try {
        // A client that is ended while it connects never says what became of that.
        await Promise.race([client.connect(), ended]);
        if (closing.signal.aborted) return;
        retryMs = FIRST_RETRY_MS;
        options.onConnect();
        current = client;
        ready.resolve();
        await ended;
        if (!closing.signal.aborted)
          options.onError(client.distrusted ?? new Error('The database closed the connection of the verifications.'));
      } catch (error) {
        options.onError(error as Error);
      }
      // Who waits since before the first attempt is told of the one that succeeds.
      if (current !== undefined) ready = Promise.withResolvers();
      current = undefined;
      if (!closing.signal.aborted)
        await sleep(retryMs * (0.5 + Math.random() / 2), undefined, { signal: closing.signal }).catch(() => undefined);
      retryMs = Math.min(LONGEST_RETRY_MS, retryMs * 2);
    }
  }

  const loop = keepConnected();
  return {
    async query<Row extends pg.QueryResultRow>(query: pg.QueryConfig): Promise<readonly Row[]> {
      // A connection that is just being made is waited for, but not one that can't be.
      if (current === undefined) await Promise.race([ready.promise, sleep(250)]);
      const client = current;
      if (client === undefined || client.distrusted !== undefined) {
        throw new AdmissionUnavailableError('The database can not be reached; try again.', { retryAfterSeconds: 1 });
      }
      try {
        return (await client.query<Row>(query)).rows;
      } catch (error) {
        if (client.distrusted === undefined) throw error;
        void client.end().catch(() => undefined); // it is given up, and its end starts the next one
        throw new AdmissionUnavailableError('The connection to the database broke before the answer; try again.', {
          retryAfterSeconds: 1,
          cause: error,
        });
      }
    },
    connected: () => current !== undefined && current.distrusted === undefined,
    async whenConnected(signal) {
      signal.throwIfAborted();
      const aborted = Promise.withResolvers<never>();
      const onAbort = (): void => aborted.reject(signal.reason);
      signal.addEventListener('abort', onAbort, { once: true });
      await Promise.race([ready.promise, aborted.promise]).finally(() => signal.removeEventListener('abort', onAbort));
    },
    async close() {
      closing.abort();
      await newest?.end().catch(() => undefined);
      await loop;
    },
  };
}
