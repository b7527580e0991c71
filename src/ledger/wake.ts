import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';

const CHANNEL = 'keyledger_log';
const FIRST_RETRY_MS = 100;
const LONGEST_RETRY_MS = 5000;

/** Calls back when the log has grown, told by the database. A lost connection is made anew; what was missed meanwhile the poll underneath finds. */
export type Wake = { close(): Promise<void> };

export type WakeOptions = {
  readonly config: pg.ClientConfig;
  /** Something was appended, or may have been while nobody listened. */
  readonly onWake: () => void;
  readonly onError: (error: Error) => void;
};

/** One LISTEN connection, a client of its own: of a pool's clients nobody could say who listens. */
export function listenForAppends({ config, onWake, onError }: WakeOptions): Wake {
  const closing = new AbortController();
  let current: pg.Client | undefined;

  async function keepListening(): Promise<void> {
    let retryMs = FIRST_RETRY_MS;
    while (!closing.signal.aborted) {
      const client = new pg.Client(config);
      current = client;
      const ended = new Promise<void>((resolve) => {
        client.once('end', resolve);
        client.on('error', (error) => {
          onError(error);
          resolve();
        });
      });
      client.on('notification', onWake);
      try {
        // A client that is ended while it connects never says what became of that.
        await Promise.race([client.connect(), ended]);
        if (closing.signal.aborted) return;
        await client.query(`LISTEN ${CHANNEL}`);
        retryMs = FIRST_RETRY_MS;
        onWake(); // whatever came while nobody listened
        await ended;
      } catch (error) {
        if (!closing.signal.aborted) onError(error as Error);
      }
      await client.end().catch(() => undefined); // it is broken already
      if (!closing.signal.aborted)
        await sleep(retryMs * (0.5 + Math.random() / 2), undefined, { signal: closing.signal }).catch(() => undefined);
      retryMs = Math.min(LONGEST_RETRY_MS, retryMs * 2);
    }
  }

  const loop = keepListening();
  return {
    async close() {
      closing.abort();
      await current?.end().catch(() => undefined);
      await loop;
    },
  };
}
