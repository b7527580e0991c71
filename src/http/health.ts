import { migrationState } from '../postgres/migrate.ts';
import type { Database } from '../postgres/pool.ts';
import { answer } from './answer.ts';
import type { Route } from './exchange.ts';

const DEADLINE_MS = 1000;

export type HealthOptions = {
  readonly database: Database;
  /** By how many events the slowest projector is behind the log. */
  readonly projectorLag: () => Promise<number>;
  /** From here on the read models are too old to show. */
  readonly maxProjectorLag: number;
};

type Check = { readonly ok: true } | { readonly ok: false; readonly reason: string };
const OK: Check = { ok: true };

/**
 * `GET /livez`: the process answers, whatever the database does, so that an outage of Postgres doesn't restart every server. `GET /readyz`: this server can do its work now: the database answers within
 * a second, has the migrations of this code, the projectors keep up, and the server isn't stopping. Both are open and name no tenant.
 */
export function healthRoutes(options: HealthOptions): readonly Route[] {
  const database = createCheck(() => askDatabase(options.database));
  const migrations = createCheck(() => askMigrations(options.database));
  const projectors = createCheck(() => askProjectors(options));
  return [
    {
      method: 'GET',
      path: '/livez',
      name: 'livez',
      handle(exchange) {
        answer(exchange, 200, '{"status":"ok"}');
      },
    },
    {
      method: 'GET',
      path: '/readyz',
      name: 'readyz',
      async handle(exchange) {
        const asked = await Promise.all([database(), migrations(), projectors()]);
        const draining: Check = exchange.scope.isDraining() ? { ok: false, reason: 'The server is stopping.' } : OK;
        const checks = { database: asked[0], migrations: asked[1], projectors: asked[2], draining };
        const ready = Object.values(checks).every(({ ok }) => ok);
        answer(exchange, ready ? 200 : 503, JSON.stringify({ status: ready ? 'ready' : 'unavailable', checks }));
      },
    },
  ];
}

/**
 * A check with a deadline. Probes share a question that is still open: a database that hangs is asked once, however often the probes come.
 */
function createCheck(ask: () => Promise<Check>): () => Promise<Check> {
  let open: Promise<Check> | undefined;
  return async () => {
    open ??= ask()
      .catch((): Check => ({ ok: false, reason: 'The database can not be asked.' }))
      .finally(() => (open = undefined));
    const { promise: late, resolve } = Promise.withResolvers<Check>();
    const timer = setTimeout(resolve, DEADLINE_MS, { ok: false, reason: `No answer within ${DEADLINE_MS} ms.` });
    try {
      return await Promise.race([open, late]);
    } finally {
      clearTimeout(timer);
    }
  };
}

async function askDatabase({ pool }: Database): Promise<Check> {
  await pool.query('SELECT 1');
  return OK;
}

async function askMigrations(database: Database): Promise<Check> {
  const state = await migrationState(database);
  switch (state.kind) {
    case 'current':
      return OK;
    case 'behind':
      return { ok: false, reason: 'The database lacks migrations of this version: run npm run migrate.' };
    case 'newer':
      return { ok: false, reason: 'The database is newer than this server: start the version that made it, or a later one.' };
    case 'changed':
    case 'outOfOrder':
      return { ok: false, reason: 'The migrations of the database are not those of this version.' };
    default:
      return state satisfies never;
  }
}

async function askProjectors({ projectorLag, maxProjectorLag }: HealthOptions): Promise<Check> {
  const lag = await projectorLag();
  return lag <= maxProjectorLag
    ? OK
    : { ok: false, reason: `The read models are ${lag} events behind the log; up to ${maxProjectorLag} are accepted.` };
}
