import { parseArgs } from 'node:util';

export type BenchOptions = {
  /** Empty: all of them. */
  readonly scenarios: readonly string[];
  /** Measured time of one slot. */
  readonly seconds: number;
  readonly repetitions: number;
  readonly connections: number;
  /** Keys over which the load is spread. */
  readonly keys: number;
  readonly coldKeys: number;
  readonly bigEvents: number;
  readonly bigKeys: number;
  /** Where the database's directory is made; the system's temporary directory unless told. */
  readonly directory: string | undefined;
  readonly cpuProf: boolean;
  readonly explain: boolean;
  /** What the sessions of keyledger's servers are started with besides, to try a planner's setting out. */
  readonly sessionOptions: string | undefined;
  readonly help: boolean;
};

export const USAGE = `npm run bench -- [scenario …] [options]

Measures the product on real processes over loopback; results go to bench/results/. Without a scenario: all of them.

  --seconds <n>       measured time of each slot (10)
  --repetitions <n>   times that the subjects of a scenario take turns; the median counts (3)
  --connections <n>   of the load (64)
  --keys <n>          over which the load is spread (1000)
  --cold-keys <n>     verified once each after a restart (10000)
  --big-events <n>    usage events in the big log (10000000)
  --big-keys <n>      keys in the big log (100000)
  --directory <path>  where the database lies; a disk, not memory (the system's temporary directory)
  --cpu-prof          writes V8 profiles of the server to bench/results/profiles/ and prints where its time goes
  --explain           samples the plans inside admit into bench/results/explain.log; figures of such a run don't count
  --session-options=<s>  start options of keyledger's database sessions, to try something out: "-c enable_hashjoin=off"; not kept either
  --help`;

/** The sizes that the rows of the table speak of. */
const STATED = { connections: 64, keys: 1_000, coldKeys: 10_000, bigEvents: 10_000_000, bigKeys: 100_000 } as const;

/** Whether figures of a run with these options are those that the table speaks of. */
export function isStatedSize(options: BenchOptions): boolean {
  return (Object.keys(STATED) as (keyof typeof STATED)[]).every((name) => options[name] === STATED[name]);
}

/** Throws a TypeError or RangeError that says what is wrong with the arguments. */
export function parseOptions(args: readonly string[]): BenchOptions {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      seconds: { type: 'string', default: '10' },
      repetitions: { type: 'string', default: '3' },
      connections: { type: 'string', default: String(STATED.connections) },
      keys: { type: 'string', default: String(STATED.keys) },
      'cold-keys': { type: 'string', default: String(STATED.coldKeys) },
      'big-events': { type: 'string', default: String(STATED.bigEvents) },
      'big-keys': { type: 'string', default: String(STATED.bigKeys) },
      directory: { type: 'string' },
      'cpu-prof': { type: 'boolean', default: false },
      explain: { type: 'boolean', default: false },
      'session-options': { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  const count = (name: keyof typeof values, min: number): number => {
    const value = Number(values[name]);
    if (!Number.isFinite(value) || value < min)
      throw new RangeError(`--${name} takes a number from ${min} on, not ${String(values[name])}`);
    return value;
  };
  const whole = (name: keyof typeof values, min: number): number => Math.floor(count(name, min));
  return {
    scenarios: positionals,
    seconds: count('seconds', 0.5),
    repetitions: whole('repetitions', 1),
    connections: whole('connections', 1),
    keys: whole('keys', 1),
    coldKeys: whole('cold-keys', 100),
    bigEvents: whole('big-events', 1_000),
    bigKeys: Math.max(whole('big-keys', 1), whole('keys', 1)),
    directory: values.directory,
    cpuProf: values['cpu-prof'],
    explain: values.explain,
    sessionOptions: values['session-options'],
    help: values.help,
  };
}
