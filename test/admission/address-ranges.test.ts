import { sql } from 'kysely';
import { expect, it } from 'vitest';

import { addressRanges, isWithin } from '../../src/admission/facts.ts';
import { openTestLedger } from '../support/ledger.ts';
import { seededRandom, type Random } from '../support/random.ts';

/** Addresses that lie close together, so that ranges hold some and some not; among them IPv4 as IPv6 writes it. */
function addressFrom(random: Random): string {
  const byte = (): number => random.pick([0, 1, 127, 128, 255, random.between(0, 255)]);
  if (random.chance(0.5)) return [10, random.between(0, 1), byte(), byte()].join('.');
  if (random.chance(0.3)) return `::ffff:10.${random.between(0, 1)}.${byte()}.${byte()}`;
  const group = (): string => random.pick(['0', '1', '8000', 'ffff', random.between(0, 65_535).toString(16)]);
  return ['2001', 'db8', group(), group(), group(), group(), group(), group()].join(':');
}

it('1.12 an address is within the ranges of a key exactly where Postgres says so', async () => {
  const ledger = await openTestLedger();
  try {
    const random = seededRandom();
    console.log(`ranges: TEST_SEED=${random.seed}`);
    const asked = Array.from({ length: 4000 }, () => {
      const near = addressFrom(random);
      const bits = near.includes(':') ? random.pick([0, 1, 16, 32, 47, 48, 49, 63, 64, 65, 96, 104, 120, 127, 128]) : random.between(0, 32);
      return { address: random.chance(0.2) ? near : addressFrom(random), near, bits };
    });
    const { rows } = await sql<{ range: string; address: string; within: boolean }>`
      SELECT network(set_masklen(near::inet, bits))::text AS range, address, address::inet <<= network(set_masklen(near::inet, bits)) AS within
      FROM json_to_recordset(${JSON.stringify(asked)}::json) AS a (address text, near text, bits integer)`.execute(ledger.db);
    const wrong = rows.filter(({ range, address, within }) => {
      const ranges = addressRanges([range]);
      return ranges === null || isWithin(address, ranges) !== within;
    });
    expect(wrong).toEqual([]);
    expect(new Set(rows.map(({ within }) => within))).toEqual(new Set([true, false]));
  } finally {
    await ledger.close();
  }
});
