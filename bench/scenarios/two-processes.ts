import type { Bench, RowMeasurement, Scenario } from '../bench.ts';
import { sumOfAccepted } from '../database/accepted.ts';
import { interleave, ratios } from '../interleave.ts';
import { keyledgerSlot } from './slots.ts';

/** The same connections on one server and dealt out over two; what they were answered is counted off against the log and the windows. */
export const twoProcesses: Scenario = {
  name: 'two-processes',
  async run(bench: Bench): Promise<readonly RowMeasurement[]> {
    const ledger = await bench.newLedger('two_processes', { keys: bench.options.keys });
    const [one, other] = [await bench.keyledger(ledger), await bench.keyledger(ledger)];
    let answered = 0;
    const count = { onAnswered: (valid: number) => (answered += valid) };
    const detail = await interleave(bench, {
      one: { ...keyledgerSlot(ledger, [one]), ...count, name: 'one process' },
      two: { ...keyledgerSlot(ledger, [one, other]), ...count, name: 'two processes' },
    });
    await Promise.all([one.stop(), other.stop()]);
    const { logged, charged } = await sumOfAccepted(ledger);
    bench.progress(`  answered VALID ${answered}, in the log ${logged}, in the windows ${charged}`);
    if (answered !== logged || answered !== charged)
      throw new Error(`not exact: ${answered} were answered VALID, the log has ${logged}, the windows counted ${charged}`);
    return [
      {
        row: 'two-processes',
        values: ratios(detail.two, detail.one, ({ perSecond }) => perSecond),
        detail: { ...detail, exact: { answered, logged, charged } },
      },
    ];
  },
};
