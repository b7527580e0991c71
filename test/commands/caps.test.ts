import { sql } from 'kysely';
import { afterEach, describe, expect, it } from 'vitest';

import { isRefusal } from '../../src/domain/refusals.ts';
import type { Outcome } from '../../src/ledger/run-command.ts';
import { asAdmin } from '../support/database.ts';
import { done, openTestLedger, type TestLedger } from '../support/ledger.ts';

const AT_ONCE = 24;
const WITHOUT_LOCK = `CREATE OR REPLACE FUNCTION keyledger.require_room(p_kind text, p_organization uuid, p_new uuid, p_most integer)
  RETURNS void LANGUAGE sql AS ''`;

type Kind = {
  readonly table: 'webhook_endpoints' | 'alert_rules';
  readonly most: number;
  readonly create: (server: TestLedger) => Promise<Outcome<unknown>>;
};

const KINDS: readonly Kind[] = [
  {
    table: 'webhook_endpoints',
    most: 50,
    create: (server) =>
      server.webhooks.create(server.owner, {
        organizationId: server.organization.id,
        url: 'https://hooks.example.com/',
        eventTypes: ['KeyCreated'],
      }),
  },
  {
    table: 'alert_rules',
    most: 100,
    create: (server) => server.alerts.createRule(server.owner, { organizationId: server.organization.id, kind: 'UNUSED_KEY', days: [30] }),
  },
];

describe.each(KINDS)('the cap on $table of an organization', ({ table, most, create }) => {
  const open: TestLedger[] = [];
  afterEach(async () => {
    for (const ledger of open.splice(0).reverse()) await ledger.close();
  });

  /** Fills all places but a few, and then asks for many more at once on two servers. */
  async function hammer(spoil?: string) {
    const first = await openTestLedger();
    open.push(first);
    const second = await openTestLedger({ on: first });
    open.push(second);
    for (let filled = 0; filled < most - 3; filled++) done(await create(first));
    if (spoil !== undefined) await asAdmin((admin) => admin.query(spoil), first.testDatabase.name);
    // Every connection is open before they start: otherwise the first few are done while the others still connect.
    await Promise.all([first, second].flatMap(({ db }) => Array.from({ length: 10 }, () => sql`SELECT pg_sleep(0.1)`.execute(db))));
    const outcomes = await Promise.all(Array.from({ length: AT_ONCE }, (_, index) => create(index % 2 === 0 ? first : second)));
    const { rows } = await sql<{ n: number }>`SELECT count(*)::integer AS n FROM ${sql.id(table)}`.execute(first.db);
    return { outcomes, count: rows[0]?.n ?? 0 };
  }

  it('is never exceeded, however many ask at once on whatever server, and those who come too late are told so', async () => {
    const { outcomes, count } = await hammer();
    expect(count).toBe(most);
    const refused = outcomes.filter(isRefusal);
    expect(refused).toHaveLength(AT_ONCE - 3);
    for (const { code, message } of refused)
      expect({ code, message }).toEqual({ code: 'INVALID_INPUT', message: expect.stringContaining('delete one first') as string });
  }, 60_000);

  it('control: looked at only when deciding, it is exceeded', async () => {
    const { count } = await hammer(WITHOUT_LOCK);
    expect(count).toBeGreaterThan(most);
  }, 60_000);
});
