import pg from 'pg';

import { GuardedClient } from './guarded-client.ts';

type Borrowed = (error: Error | undefined, client: pg.PoolClient | undefined, done: (release?: Error | boolean) => void) => void;

/** A pool that takes back only clients whose state is known: of {@link GuardedClient}s, idle, not distrusted. */
export class GuardedPool extends pg.Pool {
  constructor(config: pg.PoolConfig, onError: (error: Error) => void) {
    super({ ...config, Client: GuardedClient as unknown as new () => pg.ClientBase });
    this.on('error', onError);
    // The URL holds the password: whoever prints a pool must not see it.
    Object.defineProperty(this.options, 'connectionString', { value: config.connectionString, enumerable: false });
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
