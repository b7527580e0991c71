export type RowDefinition = {
  readonly id: string;
  readonly what: string;
  /** How a figure is written: `× bare`, `bytes`. */
  readonly unit: string;
  readonly better: 'higher' | 'lower';
  readonly floor: number;
  readonly goal: number;
};

/** What is owed (floor) and what is wanted (goal). A figure at the floor or better keeps it. */
export const ROWS = [
  {
    id: 'verify-spread',
    what: 'verify, 64 connections, 1,000 keys with daily quota and minute limit, durable usage row each, one server process, gateway token checked: requests/s against a bare `node:http` server that parses the same body',
    unit: '× bare',
    better: 'higher',
    floor: 0.3,
    goal: 0.45,
  },
  { id: 'verify-hot', what: 'the same with one hot key', unit: '× bare', better: 'higher', floor: 0.35, goal: 0.5 },
  {
    id: 'verify-better-auth',
    what: "the first row's load against better-auth's `@better-auth/api-key` 1.7.5 with quota, on the same Postgres, wrapped in `node:http`",
    unit: '× better-auth',
    better: 'higher',
    floor: 20,
    goal: 35,
  },
  { id: 'latency-p50', what: "p50 under the first row's load, against bare's", unit: '× bare', better: 'lower', floor: 5, goal: 3 },
  { id: 'latency-p99', what: "p99 under the first row's load, against bare's", unit: '× bare', better: 'lower', floor: 8, goal: 4 },
  { id: 'alone', what: "one client alone: p50 against better-auth's", unit: '× better-auth', better: 'lower', floor: 1 / 3, goal: 1 / 5 },
  {
    id: 'two-processes',
    what: 'two server processes on one Postgres, two cores in all, against one process; every `VALID` stands in the log once',
    unit: '× one process',
    better: 'higher',
    floor: 0.6,
    goal: 0.8,
  },
  {
    id: 'cold',
    what: 'the first verification of 10,000 keys after a restart, requests/s against the warm rate',
    unit: '× warm',
    better: 'higher',
    floor: 0.5,
    goal: 0.8,
  },
  {
    id: 'graphql',
    what: '`verifyApiKey` through GraphQL, requests/s against better-auth',
    unit: '× better-auth',
    better: 'higher',
    floor: 8,
    goal: 15,
  },
  {
    id: 'ingest',
    what: 'usage ingest, batches of 1,000 over HTTP, committed: items/s against `COPY` of the same rows, in the same batches, into a table with the same indexes',
    unit: '× COPY',
    better: 'higher',
    floor: 0.3,
    goal: 0.5,
  },
  { id: 'storage', what: 'storage a usage event, indexes included', unit: 'bytes', better: 'lower', floor: 220, goal: 130 },
  {
    id: 'big-log',
    what: '10 million usage events and 100,000 keys in the log: verify, 1,000 active keys, against an almost empty log',
    unit: '× empty log',
    better: 'higher',
    floor: 0.85,
    goal: 0.95,
  },
  {
    id: 'statistics',
    what: '10 million usage events over a year and 100,000 keys: totals and series by key, category and organization, through GraphQL, one client: p99 of the slowest kind of question',
    unit: 'ms',
    better: 'lower',
    floor: 100,
    goal: 50,
  },
  {
    id: 'request-log',
    what: 'the same ledger: pages of the request log, p99 of the slowest kind',
    unit: 'ms',
    better: 'lower',
    floor: 50,
    goal: 25,
  },
  {
    id: 'key-list',
    what: "the same ledger: pages of the keys' list in each order, p99 of the slowest kind",
    unit: 'ms',
    better: 'lower',
    floor: 100,
    goal: 50,
  },
  {
    id: 'alert-latency',
    what: 'alerts at 5,000 verifications/s over 10,000 keys: p99 from sending the request that crosses a threshold to the alert on the subscribed WebSocket',
    unit: 'ms',
    better: 'lower',
    floor: 1_000,
    goal: 500,
  },
  {
    id: 'live',
    what: "1,000 sockets on one server, each following ten keys' use and its organization's alerts, while verifications over 10,000 keys run, 5,000 a second or six tenths of what the machine sustains with these sockets: p99 from commit to client",
    unit: 'ms',
    better: 'lower',
    floor: 1000,
    goal: 250,
  },
  {
    id: 'live-verify',
    what: "verification's p99 with these sockets against the same load without",
    unit: '× without',
    better: 'lower',
    floor: 1.5,
    goal: 1.2,
  },
  {
    id: 'live-memory',
    what: "the server's memory at the end of that load against its beginning",
    unit: '× beginning',
    better: 'lower',
    floor: 1.25,
    goal: 1.1,
  },
] as const satisfies readonly RowDefinition[];

export type RowId = (typeof ROWS)[number]['id'];

export function rowOf(id: RowId): RowDefinition {
  const row = ROWS.find((candidate) => candidate.id === id);
  if (row === undefined) throw new Error(`no row ${id}`);
  return row;
}

export type Verdict = 'goal' | 'floor' | 'below';

/** Where a figure stands to what is owed and wanted. */
export function verdictOf({ better, floor, goal }: RowDefinition, value: number): Verdict {
  const reaches = (bound: number): boolean => (better === 'higher' ? value >= bound : value <= bound);
  if (reaches(goal)) return 'goal';
  return reaches(floor) ? 'floor' : 'below';
}
