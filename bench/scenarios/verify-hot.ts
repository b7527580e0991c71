import type { Bench, RowMeasurement, Scenario } from '../bench.ts';
import { interleave, ratios } from '../interleave.ts';
import { bareSlot, keyledgerSlot } from './slots.ts';

/** All requests carry one key. */
export const verifyHot: Scenario = {
  name: 'verify-hot',
  async run(bench: Bench): Promise<readonly RowMeasurement[]> {
    const ledger = await bench.ledger();
    const hot = ledger.keys.slice(0, 1);
    const server = await bench.keyledger(ledger);
    const bare = await bareSlot(bench, ledger, server, hot);
    const detail = await interleave(bench, { bare, keyledger: keyledgerSlot(ledger, [server], hot) });
    await Promise.all([server.stop(), bare.stop()]);
    return [{ row: 'verify-hot', values: ratios(detail.keyledger, detail.bare, ({ perSecond }) => perSecond), detail }];
  },
};
