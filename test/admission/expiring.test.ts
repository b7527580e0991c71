import { sql } from 'kysely';
import { afterEach, expect, it } from 'vitest';

import { openTestLedger, type TestLedger } from '../support/ledger.ts';
import { installTestClock } from '../support/test-clock.ts';

const KEYS = 150;

const open: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const resource of open.splice(0).reverse()) await resource.close();
});

async function openTwo() {
  const first = await openTestLedger();
  open.push(first);
  const second = await openTestLedger({ on: first });
  open.push(second);
  return { first, second };
}

const codeOf = async (server: TestLedger, secret: string): Promise<string> => {
  const answer = await server.verify(secret);
  return answer.kind === 'answer' ? answer.code : answer.kind;
};

it('keys that expire one after the other, at each moment another one, keep nobody from an answer', async () => {
  const { first, second } = await openTwo();
  const other = await first.newOrganization('Other');
  const lasting = await first.newKey({}, other.owner);
  const keys = await Promise.all(Array.from({ length: KEYS }, () => first.newKey()));
  // Every 4 ms from now on; written past the log, as so many commands would take too long.
  await sql`
    UPDATE api_keys k SET expires_at = date_trunc('milliseconds', now()) + n.n * interval '4 ms' + interval '1 second'
    FROM (SELECT number, row_number() OVER (ORDER BY number) AS n FROM api_keys WHERE organization_id = ${first.organization.id}) AS n WHERE n.number = k.number`.execute(
    first.db,
  );
  const expiry = new Map(
    (
      await sql<{
        id: string;
        at: Date;
      }>`SELECT id, expires_at AS at FROM api_keys WHERE organization_id = ${first.organization.id}`.execute(first.db)
    ).rows.map(({ id, at }) => [id, at.getTime()]),
  );
  const last = Math.max(...expiry.values());
  const wrong = new Map<string, number>();
  let answers = 0;
  const note = (what: string): void => void wrong.set(what, (wrong.get(what) ?? 0) + 1);
  await Promise.all([
    ...Array.from({ length: 24 }, async (_, index) => {
      const server = index % 2 === 0 ? first : second;
      for (let turn = index * 25; Date.now() < last + 50; turn++) {
        const key = keys[turn % KEYS];
        const at = expiry.get(key?.keyId ?? '') ?? 0;
        const before = Date.now();
        try {
          const code = await codeOf(server, key?.secret ?? '');
          answers++;
          if (before >= at && code !== 'EXPIRED') note(`${code} after it had expired`);
          if (Date.now() < at && code !== 'VALID') note(`${code} before it expires`);
        } catch (error) {
          note(String(error));
        }
      }
    }),
    (async () => {
      while (Date.now() < last)
        await second.verify(lasting.secret, {}, other.id).then(
          (answer) => (answer.kind === 'answer' && answer.code === 'VALID' ? undefined : note('not valid')),
          (error: unknown) => note(`the other organization: ${String(error)}`),
        );
    })(),
  ]);
  expect([...wrong]).toEqual([]);
  expect(answers).toBeGreaterThan(KEYS);
});

it('a clock that steps back makes a key valid again that had expired, and one that leaps ahead makes it expire', async () => {
  const { first, second } = await openTwo();
  const clock = await installTestClock(first.testDatabase);
  open.push(clock);
  const { secret } = await first.newKey({ expiresAt: new Date(Date.now() + 60_000).toISOString() });
  for (const [leapMs, code] of [
    [0, 'VALID'],
    [61_000, 'EXPIRED'],
    [-61_000, 'VALID'],
    [3_600_000, 'EXPIRED'],
    [-3_590_000, 'VALID'],
  ] as const) {
    await clock.advance(leapMs);
    expect(await codeOf(first, secret)).toBe(code);
    expect(await codeOf(second, secret)).toBe(code);
  }
});
