import { setTimeout as sleep } from 'node:timers/promises';

import pg from 'pg';

import { GuardedClient } from './guarded-client.ts';

/** A backend that is busy past its welcome must not keep the process. */
const CLOSE_DEADLINE_MS = 2000;

type Borrowed = (error: Error | undefined, client: pg.PoolClient | undefined, done: (release?: Error | boolean) => void) => void;

/** A pool that takes back only clients whose state is known: of {@link GuardedClient}s, idle, not distrusted. */
export class GuardedPool extends pg.Pool {
  constructor(config: pg.PoolConfig, onError: (error: Error) => void) {
    super({ ...config, Client: GuardedClient as unknown as new () => pg.ClientBase });
    this.on('error', onError);
    // The URL holds the password: whoever prints a pool must not see it.
    Object.defineProperty(this.options, 'connectionString', { value: config.connectionString, enumerable: false });
    this.on('connect', () => this.#open++);
    this.on('remove', () => {
      this.#open--;
      if (this.#open === 0) this.#allGone?.resolve();
    });
  }

  #open = 0;
  #allGone: PromiseWithResolvers<void> | undefined;

  /**
   * Ends every connection and waits until each is closed: `end()` alone resolves when the farewells are on their way, and a Postgres that is stopped right
   * after it would still say so to each of them, as an error.
   */
  async endAll(): Promise<void> {
    await this.end();
    if (this.#open === 0) return;
    this.#allGone = Promise.withResolvers();
    await Promise.race([this.#allGone.promise, sleep(CLOSE_DEADLINE_MS, undefined, { ref: false })]);
  }

  override connect(): Promise<pg.PoolClient>;
  override connect(callback: Borrowed): void;
  override connect(callback?: Borrowed): Promise<pg.PoolClient> | void {
    if (callback === undefined) return super.connect().then(guardRelease);
    super.connect((error, client, done) => {
      if (client === undefined) return callback(error, client, done);
      const guarded = guardRelease(client);
      callback(error, guarded, guarded.release.bind(guarded));
    });
  }
}

function guardRelease(client: pg.PoolClient): pg.PoolClient {
  const release = client.release.bind(client);
  client.release = (reason) => {
    release(reason === undefined || reason === false ? whyNotReusable(client) : reason);
  };
  return client;
}

function whyNotReusable(client: pg.PoolClient): Error | undefined {
  if (client instanceof GuardedClient && client.distrusted !== undefined) return client.distrusted;
  const status = client.getTransactionStatus();
  return status === 'I' ? undefined : new Error(`returned to the pool inside a transaction (status ${String(status)})`);
}
