import type { BenchPostgres } from './database/bench-postgres.ts';
import { createLedgerDatabase, type LedgerDatabase, type LedgerDatabaseOptions } from './database/ledger-database.ts';
import type { LoadGenerator } from './load/load-generator.ts';
import type { BenchOptions } from './options.ts';
import type { RowId } from './rows.ts';
import { startBetterAuth, type BetterAuth } from './subjects/better-auth.ts';
import { startKeyledger, type Subject } from './subjects/keyledger-server.ts';

type NewLedger = Omit<LedgerDatabaseOptions, 'onProgress'>;

/** What scenarios work with. Everything that is started through it ends with it. */
export type Bench = {
  readonly options: BenchOptions;
  readonly postgres: BenchPostgres;
  readonly generator: LoadGenerator;
  readonly signal: AbortSignal;
  progress(line: string): void;
  /** A ledger with `--keys` keys, made at the first call. */
  ledger(): Promise<LedgerDatabase>;
  newLedger(name: string, options: NewLedger): Promise<LedgerDatabase>;
  /** better-auth with `--keys` keys, started at the first call. */
  betterAuth(): Promise<BetterAuth>;
  /** A server on a ledger; the caller stops it, or the end of the bench. */
  keyledger(ledger: LedgerDatabase): Promise<Subject>;
  /** Stops it at the end of the bench, if not before. */
  keep<S extends { stop(): Promise<void> }>(subject: S): S;
};

export type RowMeasurement = {
  readonly row: RowId;
  /** One a repetition. */
  readonly values: readonly number[];
  /** What the values were computed of, for the results file. */
  readonly detail: unknown;
};

/** Names what it measures, and gives the figures of one or more rows. */
export type Scenario = { readonly name: string; run(bench: Bench): Promise<readonly RowMeasurement[]> };

export function createBench(
  parts: Pick<Bench, 'options' | 'postgres' | 'generator' | 'signal' | 'progress'>,
  acquired: AsyncDisposableStack,
  profileDir: string | undefined,
): Bench {
  const { options, postgres, signal, progress } = parts;
  let ledger: Promise<LedgerDatabase> | undefined;
  let betterAuth: Promise<BetterAuth> | undefined;

  async function newLedger(name: string, wanted: NewLedger): Promise<LedgerDatabase> {
    progress(`making a ledger with ${wanted.keys} keys`);
    const made = await createLedgerDatabase(postgres, name, { ...wanted, onProgress: progress });
    acquired.defer(() => made.close());
    return made;
  }

  function keep<S extends { stop(): Promise<void> }>(subject: S): S {
    acquired.defer(() => subject.stop());
    return subject;
  }

  return {
    ...parts,
    newLedger,
    keep,
    ledger: () => (ledger ??= newLedger('ledger', { keys: options.keys })),
    betterAuth: () => (betterAuth ??= startBetterAuth(postgres, { keys: options.keys, signal, onProgress: progress }).then(keep)),
    keyledger: async (on) =>
      keep(await startKeyledger({ env: withSessionOptions(on.env, options.sessionOptions) }, { profileDir, signal })),
  };
}

function withSessionOptions(env: LedgerDatabase['env'], sessionOptions: string | undefined): LedgerDatabase['env'] {
  if (sessionOptions === undefined) return env;
  const url = new URL(env['DATABASE_URL'] ?? '');
  url.searchParams.set('options', sessionOptions);
  return { ...env, DATABASE_URL: url.toString() };
}
