import type { Bench, RowMeasurement, Scenario } from '../bench.ts';
import { interleave, ratios } from '../interleave.ts';
import { bareSlot, betterAuthSlot, keyledgerSlot } from './slots.ts';

/** Many keys, one server, beside the bare server and better-auth: throughput and latency of the same slots. */
export const verifySpread: Scenario = {
  name: 'verify-spread',
  async run(bench: Bench): Promise<readonly RowMeasurement[]> {
    const ledger = await bench.ledger();
    const betterAuth = await betterAuthSlot(bench);
    const server = await bench.keyledger(ledger);
    const bare = await bareSlot(bench, ledger, server);
    const detail = await interleave(bench, { bare, keyledger: keyledgerSlot(ledger, [server]), betterAuth });
    await Promise.all([server.stop(), bare.stop()]);
    const { keyledger } = detail;
    return [
      { row: 'verify-spread', values: ratios(keyledger, detail.bare, ({ perSecond }) => perSecond), detail },
      { row: 'verify-better-auth', values: ratios(keyledger, detail.betterAuth, ({ perSecond }) => perSecond), detail },
      { row: 'latency-p50', values: ratios(keyledger, detail.bare, ({ p50Us }) => p50Us), detail },
      { row: 'latency-p99', values: ratios(keyledger, detail.bare, ({ p99Us }) => p99Us), detail },
    ];
  },
};
