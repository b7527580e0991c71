import type { Bench, RowMeasurement, Scenario } from '../bench.ts';
import { interleave, ratios } from '../interleave.ts';
import { betterAuthSlot, keyledgerSlot } from './slots.ts';

/** One connection, one request at a time: what a quiet gateway waits. */
export const alone: Scenario = {
  name: 'alone',
  async run(bench: Bench): Promise<readonly RowMeasurement[]> {
    const ledger = await bench.ledger();
    const betterAuth = await betterAuthSlot(bench);
    const server = await bench.keyledger(ledger);
    const detail = await interleave(bench, {
      keyledger: { ...keyledgerSlot(ledger, [server]), connections: 1 },
      betterAuth: { ...betterAuth, connections: 1 },
    });
    await server.stop();
    return [{ row: 'alone', values: ratios(detail.keyledger, detail.betterAuth, ({ p50Us }) => p50Us), detail }];
  },
};
