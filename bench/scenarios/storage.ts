import type { Bench, RowMeasurement, Scenario } from '../bench.ts';
import { usageStorage } from '../database/usage-storage.ts';
import { describe } from '../interleave.ts';
import { measure } from '../measure.ts';
import { keyledgerSlot } from './slots.ts';

/** What the rows of verifications take on disk, as traffic wrote them: table and indexes, of the partitions that have any. */
export const storage: Scenario = {
  name: 'storage',
  async run(bench: Bench): Promise<readonly RowMeasurement[]> {
    const ledger = await bench.newLedger('storage', { keys: bench.options.keys });
    const server = await bench.keyledger(ledger);
    const measured = await measure(bench, keyledgerSlot(ledger, [server]), Math.max(10, bench.options.seconds) * 1000);
    await server.stop();
    bench.progress(`  keyledger: ${describe(measured)}`);
    const sizes = await usageStorage(ledger);
    bench.progress(
      `  ${sizes.events} events: ${(sizes.tableBytes / sizes.events).toFixed(1)} bytes in the table, ${(sizes.indexBytes / sizes.events).toFixed(1)} in its indexes`,
    );
    return [{ row: 'storage', values: [(sizes.tableBytes + sizes.indexBytes) / sizes.events], detail: { sizes, measured } }];
  },
};
