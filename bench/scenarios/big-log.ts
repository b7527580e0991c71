import type { Bench, RowMeasurement, Scenario } from '../bench.ts';
import { awaitQuiet } from '../database/await-quiet.ts';
import { seedHistory } from '../database/seed-history.ts';
import { usageStorage } from '../database/usage-storage.ts';
import { interleave, ratios } from '../interleave.ts';
import { keyledgerSlot } from './slots.ts';

const START_DAYS_AGO = 60;
const END_DAYS_AGO = 32;

/** Two ledgers, one with a long past; the same number of active keys in both. */
export const bigLog: Scenario = {
  name: 'big-log',
  async run(bench: Bench): Promise<readonly RowMeasurement[]> {
    const { options, progress, signal } = bench;
    const small = await bench.ledger();
    const big = await bench.newLedger('big_log', { keys: options.bigKeys, ageDays: START_DAYS_AGO + 1 });
    await seedHistory(big, {
      events: options.bigEvents,
      startDaysAgo: START_DAYS_AGO,
      endDaysAgo: END_DAYS_AGO,
      signal,
      onProgress: progress,
    });
    const sizes = await usageStorage(big);
    progress(`  ${((sizes.tableBytes + sizes.indexBytes) / sizes.events).toFixed(1)} bytes a usage event; the statistics are folded now`);
    const smallServer = await bench.keyledger(small);
    const bigServer = await bench.keyledger(big);
    const folded = await awaitQuiet(bench.postgres.admin, big, signal);
    progress(`  ${folded.lagEvents} events folded in ${folded.seconds.toFixed(0)} s`);
    // Active keys lie all over the table, as they would.
    const step = Math.floor(big.keys.length / options.keys);
    const active = big.keys.filter((_, index) => index % step === 0).slice(0, options.keys);
    const detail = await interleave(bench, {
      empty: { ...keyledgerSlot(small, [smallServer]), name: 'almost empty log' },
      big: { ...keyledgerSlot(big, [bigServer], active), name: 'big log' },
    });
    await Promise.all([smallServer.stop(), bigServer.stop()]);
    return [
      { row: 'big-log', values: ratios(detail.big, detail.empty, ({ perSecond }) => perSecond), detail: { ...detail, sizes, folded } },
    ];
  },
};
