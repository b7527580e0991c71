import { randomBytes } from 'node:crypto';

import { sql, type Kysely } from 'kysely';

import { createKeyCommands, type KeyCommands } from '../../src/commands/key-commands.ts';
import { createOrganizationCommands, type OrganizationCommands } from '../../src/commands/organization-commands.ts';
import { createTokenCommands, type TokenCommands } from '../../src/commands/token-commands.ts';
import type { Actor } from '../../src/domain/actor.ts';
import { permissionsOf } from '../../src/domain/permissions.ts';
import { isRefusal } from '../../src/domain/refusals.ts';
import { createArgon2Verifiers } from '../../src/identity/argon2-verifier.ts';
import { createPeppers } from '../../src/identity/pepper.ts';
import { sealingKey } from '../../src/ledger/idempotency.ts';
import type { Outcome } from '../../src/ledger/run-command.ts';
import { createTurns } from '../../src/lib/turns.ts';
import type { Database } from '../../src/postgres/pool.ts';
import type { Tables } from '../../src/postgres/tables.ts';

export type TestKey = { readonly id: string; readonly number: number; readonly secret: string };

/** An organization made by the real commands, with its owner and the means to change it. */
export type Tenant = {
  readonly organizationId: string;
  readonly organizationNumber: number;
  readonly owner: Extract<Actor, { kind: 'member' }>;
  readonly keys: KeyCommands;
  readonly organizations: OrganizationCommands;
  readonly tokens: TokenCommands;
  createKey(settings?: Readonly<Record<string, unknown>>): Promise<TestKey>;
};

const PEPPER = randomBytes(32);

/** What the commands need of a server, made for one database. */
export function commandsFor(database: Database) {
  const peppers = createPeppers([{ id: 'test', key: PEPPER }]);
  const sealing = sealingKey('test', peppers.current.key);
  const context = {
    db: database.kysely,
    sealingKeys: { current: sealing, get: (id: string) => (id === 'test' ? sealing : undefined) },
    turns: createTurns(),
  };
  const argon2 = createArgon2Verifiers({ concurrency: 2, queueLimit: 100, memoryKib: 64 });
  return {
    context,
    organizations: createOrganizationCommands(context),
    tokens: createTokenCommands(context),
    keys: createKeyCommands({ ...context, peppers, argon2, keyOperationsPerHour: null }),
  };
}

export async function createTenant(database: Database, name = 'Test organization'): Promise<Tenant> {
  const commands = commandsFor(database);
  const { organizationId, memberId } = done(await commands.organizations.create(null, { name, ownerName: 'An owner' }));
  if (memberId === null) throw new Error('an organization without an owner');
  const { number: organizationNumber } = await database.kysely
    .selectFrom('organizations')
    .select('number')
    .where('id', '=', organizationId)
    .executeTakeFirstOrThrow();
  const owner = {
    kind: 'member',
    id: `member:${memberId}`,
    memberId,
    organizationId,
    role: 'OWNER',
    permissions: new Set(permissionsOf('OWNER')),
    tokenId: null,
    expiresAt: null,
  } as const;
  let made = 0;
  return {
    ...commands,
    organizationId,
    organizationNumber,
    owner,
    async createKey(settings = {}) {
      const outcome = await commands.keys.create(owner, {
        organizationId,
        name: `Key number ${++made}`,
        type: 'SECRET',
        category: 'production',
        ...settings,
      });
      if (isRefusal(outcome)) throw new Error(outcome.message);
      const row = await database.kysely
        .selectFrom('api_keys')
        .select('number')
        .where('id', '=', outcome.result.keyId)
        .executeTakeFirstOrThrow();
      return { id: outcome.result.keyId, number: row.number, secret: outcome.secret?.reveal() ?? '' };
    },
  };
}

/** The result of a command that must not be refused. */
export function done<Result>(outcome: Outcome<Result>): Result {
  if (isRefusal(outcome)) throw new Error(`${outcome.code}: ${outcome.message}`);
  return outcome.result;
}

export type UsageRow = {
  readonly key: number;
  readonly kind?: 1 | 2 | 3;
  readonly code?: number;
  readonly credits?: number;
  readonly status?: number | null;
  readonly duration_ms?: number | null;
  readonly occurred_at?: string | null;
  readonly settles?: string | null;
  readonly cost_micros?: string | null;
  readonly tokens_in?: string | null;
  readonly tokens_out?: string | null;
  readonly ip?: string | null;
  readonly endpoint?: string | null;
  readonly model?: string | null;
  readonly request_id?: string | null;
};

/** Appends usage rows as admission does, but without deciding anything. Answers the position of the first. */
export async function appendUsage(db: Kysely<Tables>, organization: number, rows: readonly UsageRow[]): Promise<bigint> {
  const filled = rows.map((row) => ({ kind: 1, code: 0, credits: 1, ...row }));
  const { rows: answers } = await sql<{ first_position: bigint }>`
    WITH reserved AS MATERIALIZED (SELECT * FROM reserve_positions()),
    appended AS (
      INSERT INTO usage_events (position, recorded_at, organization, key, credits, kind, code, status, duration_ms, occurred_at, settles, cost_micros, tokens_in,
        tokens_out, ip, endpoint, model, request_id)
      SELECT r.first_position + u.ordinal - 1, r.recorded_at, ${organization}, u.key, u.credits, u.kind, u.code, u.status, u.duration_ms, u.occurred_at, u.settles,
        u.cost_micros, u.tokens_in, u.tokens_out, u.ip, u.endpoint, u.model, u.request_id
      FROM reserved r, (SELECT t.*, row_number() OVER () AS ordinal FROM json_populate_recordset(NULL::usage_events, ${JSON.stringify(filled)}) AS t) AS u
      RETURNING position, kind, settles
    ),
    settled AS (INSERT INTO settlements (request, settled_by) SELECT settles, position FROM appended WHERE kind = 3)
    SELECT first_position FROM reserved`.execute(db);
  const first = answers[0]?.first_position;
  if (first === undefined) throw new Error('nothing was appended');
  return first;
}
