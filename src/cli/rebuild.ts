import type { Database } from '../postgres/pool.ts';
import { repairBalances } from '../projections/balance-repair.ts';
import { rebuildProjection } from '../projections/rebuild.ts';
import type { StreamKind } from '../projections/state-fold.ts';
import { repairState } from '../projections/state-repair.ts';
import { repairWindows } from '../projections/window-repair.ts';
import { USAGE_PROJECTION } from '../projections/usage-fold.ts';
import { EXIT, parseArguments, UsageError, type CliCommand, type CliIo } from './command.ts';
import { openLedger } from './open-ledger.ts';
import { groupDigits } from '../lib/group-digits.ts';
import { createProgressLine, duration } from './progress.ts';

const STATE: Readonly<Record<string, StreamKind>> = {
  organizations: 'organization',
  tokens: 'token',
  keys: 'key',
  'alert-rules': 'alert-rule',
  alerts: 'alert',
  webhooks: 'webhook',
};
const PARTS = [...Object.keys(STATE), 'windows', 'balances', 'usage'];

export const rebuildCommand: CliCommand = {
  name: 'rebuild',
  summary: 'make what is derived anew from the log',
  help: `keyledger rebuild [--only PART]…

Makes the read models anew from the log while servers run. Organizations, members, tokens, keys, alerts, their rules and webhook endpoints are compared row by row, and a row that is not what the
log says is written anew. The windows that limits are counted in are compared with the usage events, key by key, and prepaid balances with funds and costs. The statistics of usage are folded from the first event into a second set of tables, which then takes the place of the first.
Ctrl-C stops it; the same command goes on where it stopped. What is not derived, the verifiers of keys and the names of people, stays as it is.

  --only PART   one of ${PARTS.join(', ')}; may be given several times; everything where it is not given`,
  run: async (args, io) => {
    const { values } = parseArguments(args, { only: { type: 'string', multiple: true } }, { min: 0, max: 0 });
    const parts = new Set(values.only?.flatMap((text) => text.split(',')) ?? PARTS);
    const unknown = [...parts].find((part) => !PARTS.includes(part));
    if (unknown !== undefined)
      throw new UsageError(`There is no part ${JSON.stringify(unknown)} to rebuild; there are ${PARTS.join(', ')}.`);
    const ledger = await openLedger(io, { create: false });
    try {
      const kinds = Object.entries(STATE).flatMap(([part, kind]) => (parts.has(part) ? [kind] : []));
      const steps: readonly (readonly [part: string, rebuild: () => Promise<number>])[] = [
        ...(kinds.length === 0 ? [] : [['the state', () => rebuildState(ledger.database, kinds, io)] as const]),
        ...(parts.has('windows') ? [['windows', () => rebuildWindows(ledger.database, io)] as const] : []),
        ...(parts.has('balances') ? [['balances', () => rebuildBalances(ledger.database, io)] as const] : []),
        ...(parts.has('usage') ? [['usage', () => rebuildUsage(ledger.database, io)] as const] : []),
      ];
      let outcome: number = EXIT.done;
      for (const [part, rebuild] of steps) {
        if (io.signal.aborted) {
          // A step that was itself interrupted has said so.
          if (outcome === EXIT.done) io.err(`Interrupted before ${part}. Run the same command again: what is mended stays mended.`);
          return EXIT.failed;
        }
        const code = await rebuild();
        if (outcome === EXIT.done) outcome = code;
      }
      return outcome;
    } finally {
      await ledger.close();
    }
  },
};

async function rebuildState(database: Database, kinds: readonly StreamKind[], io: CliIo): Promise<number> {
  const progress = createProgressLine(io);
  const outcome = await repairState(database, {
    kinds,
    signal: io.signal,
    onProgress: ({ kind, streams }) => progress.show(`${kind}: ${groupDigits(streams)} compared`),
  });
  progress.end();
  for (const row of outcome.repaired) io.out(`written anew  ${row}`);
  for (const reason of outcome.left) io.err(`not mended: ${reason}`);
  if (outcome.interrupted) {
    io.err(`Interrupted after ${groupDigits(outcome.streams)} were compared. Run the same command again: what is mended stays mended.`);
    return EXIT.failed;
  }
  io.out(`State: ${groupDigits(outcome.streams)} histories folded, ${groupDigits(outcome.repaired.length)} rows written anew.`);
  return outcome.left.length === 0 ? EXIT.done : EXIT.failed;
}

async function rebuildWindows(database: Database, io: CliIo): Promise<number> {
  const progress = createProgressLine(io);
  const outcome = await repairWindows(database, {
    signal: io.signal,
    onProgress: ({ compared, keys }) => progress.show(`windows: ${groupDigits(compared)} of ${groupDigits(keys)} keys compared`),
  });
  progress.end();
  if (outcome.interrupted) {
    io.err(`Interrupted after ${groupDigits(outcome.compared)} keys. Run the same command again: what is mended stays mended.`);
    return EXIT.failed;
  }
  io.out(`Windows: ${groupDigits(outcome.compared)} keys compared, ${groupDigits(outcome.repaired)} counted anew.`);
  return EXIT.done;
}

async function rebuildBalances(database: Database, io: CliIo): Promise<number> {
  const outcome = await repairBalances(database, { signal: io.signal });
  if (outcome.interrupted) {
    io.err(`Interrupted after ${groupDigits(outcome.compared)} balances. Run the same command again: what is mended stays mended.`);
    return EXIT.failed;
  }
  io.out(`Balances: ${groupDigits(outcome.compared)} compared, ${groupDigits(outcome.repaired)} added up anew.`);
  return EXIT.done;
}

async function rebuildUsage(database: Database, io: CliIo): Promise<number> {
  const progress = createProgressLine(io);
  const outcome = await rebuildProjection(database, USAGE_PROJECTION, {
    signal: io.signal,
    onProgress: ({ position, head, eventsPerSecond, remainingMs }) => {
      const speed =
        eventsPerSecond === null || remainingMs === null ? '' : `, ${groupDigits(eventsPerSecond)} events/s, ${duration(remainingMs)} left`;
      progress.show(`usage: ${groupDigits(position)} of ${groupDigits(head)}${speed}`);
    },
  });
  progress.end();
  for (const { position, reason } of outcome.parked) io.err(`position ${position} could not be counted and was set aside: ${reason}`);
  if (outcome.kind === 'interrupted') {
    io.err(
      `Interrupted at position ${outcome.position}. Run keyledger rebuild --only usage to go on from there; until then the statistics are read from the old tables.`,
    );
    return EXIT.failed;
  }
  io.out(`Usage: ${outcome.resumed ? 'taken up where it had stopped, ' : ''}rebuilt up to position ${outcome.position}.`);
  return outcome.parked.length === 0 ? EXIT.done : EXIT.failed;
}
