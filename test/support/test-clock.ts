import pg from 'pg';

import { clientConfig } from '../../src/postgres/client-config.ts';
import type { TestDatabase } from './database.ts';

/** The clock of one test database, in the hands of its test. Every session sees a change of it at once, in the middle of a transaction too. */
export type TestClock = {
  /** Moves the clock on, which goes on running or standing still as it did. */
  advance(ms: number): Promise<void>;
  /** Stops the clock at a moment. */
  stopAt(at: Date): Promise<void>;
  now(): Promise<Date>;
  close(): Promise<void>;
};

/** Replaces the function that everything in the ledger reads the time from. As the owner: the server itself may not. */
export async function installTestClock(database: TestDatabase): Promise<TestClock> {
  const owner = new pg.Client(clientConfig({ connectionString: database.ownerUrl, applicationName: 'keyledger test clock', role: null }));
  owner.on('error', () => undefined);
  await owner.connect();
  await owner.query(`
    CREATE TABLE keyledger.test_clock (ahead interval NOT NULL, stopped timestamptz);
    INSERT INTO keyledger.test_clock VALUES ('0', NULL);
    GRANT SELECT ON keyledger.test_clock TO keyledger_server;
    CREATE OR REPLACE FUNCTION keyledger.ledger_now() RETURNS timestamptz LANGUAGE sql VOLATILE
      AS 'SELECT coalesce(stopped, clock_timestamp()) + ahead FROM keyledger.test_clock'`);
  // A pg client takes one statement at a time.
  let last: Promise<unknown> = Promise.resolve();
  function inTurn<Result>(work: () => Promise<Result>): Promise<Result> {
    const turn = last.then(work, work);
    last = turn;
    return turn;
  }
  return {
    async advance(ms) {
      await inTurn(() => owner.query(`UPDATE test_clock SET ahead = ahead + make_interval(secs => $1)`, [ms / 1000]));
    },
    async stopAt(at) {
      await inTurn(() => owner.query(`UPDATE test_clock SET stopped = $1, ahead = '0'`, [at]));
    },
    async now() {
      const { rows } = await inTurn(() => owner.query<{ now: Date }>('SELECT ledger_now() AS now'));
      const now = rows[0]?.now;
      if (now === undefined) throw new Error('the test clock told no time');
      return now;
    },
    close: () => owner.end(),
  };
}
