import type { Bench, RowMeasurement, Scenario } from '../bench.ts';
import { awaitQuiet } from '../database/await-quiet.ts';
import { describe, ratios } from '../interleave.ts';
import { measure, type Measured } from '../measure.ts';
import { keyledgerSlot } from './slots.ts';

const WARM_PASSES = 4;

/**
 * After a restart every key once, each for the first time: no cache knows it, and the code has not been compiled yet. Then the same pass again and again, and
 * the last one is the warm rate.
 */
export const cold: Scenario = {
  name: 'cold',
  async run(bench: Bench): Promise<readonly RowMeasurement[]> {
    const ledger = await bench.newLedger('cold', { keys: bench.options.coldKeys });
    const first: Measured[] = [];
    const warm: Measured[] = [];
    for (let repetition = 0; repetition < bench.options.repetitions; repetition++) {
      const server = await bench.keyledger(ledger);
      await awaitQuiet(bench.postgres.admin, ledger, bench.signal);
      const pass = (): Promise<Measured> => measure(bench, { ...keyledgerSlot(ledger, [server]), once: true }, 0);
      first.push(await pass());
      let latest = await pass();
      for (let more = 1; more < WARM_PASSES; more++) latest = await pass();
      warm.push(latest);
      await server.stop();
      for (const [name, measured] of [
        ['cold', first],
        ['warm', warm],
      ] as const)
        bench.progress(`  ${name}: ${describe(measured.at(-1) ?? latest)}`);
    }
    return [{ row: 'cold', values: ratios(first, warm, ({ perSecond }) => perSecond), detail: { cold: first, warm } }];
  },
};
