import { createBalanceCommands, type BalanceResult } from '../commands/balance-commands.ts';
import { formatMicros } from '../domain/format-micros.ts';
import { isRefusal } from '../domain/refusals.ts';
import type { Outcome } from '../ledger/run-command.ts';
import { readBalance } from '../projections/read-balance.ts';
import { EXIT, parseArguments, UsageError, type CliCommand, type CliIo } from './command.ts';
import { findOrganization } from './find-organization.ts';
import { openLedger, type OpenLedger } from './open-ledger.ts';
import { refused } from './refused.ts';

export const balanceCommand: CliCommand = {
  name: 'balance',
  summary: "show, enable, add to and disable an organization's prepaid balance",
  help: `keyledger balance show [--organization ID|NAME] [--json]
keyledger balance enable [--funds AMOUNT] [--organization ID|NAME] [--idempotency-key KEY] [--json]
keyledger balance add AMOUNT [--organization ID|NAME] [--idempotency-key KEY] [--json]
keyledger balance disable [--organization ID|NAME] [--idempotency-key KEY] [--json]

An organization keeps no balance until it is enabled. From then on its usage is charged, and its keys pass while more than 0.05 is left. Disabled, nothing is
charged any more and what was left counts no more: show it first. Each prints the balance as it is then.

  AMOUNT                   of the currency, above 0, with six places at most, such as 12.50
  --funds AMOUNT           the first funds, so that no key is refused meanwhile
  --organization ID|NAME   may be left out while there is only one
  --idempotency-key KEY    a retry with the same one has no second effect
  --json                   one JSON object, with amounts in micros (millionths)`,
  run: async ([action, ...args], io) => {
    switch (action) {
      case 'show':
        return show(args, io);
      case 'enable':
        return enable(args, io);
      case 'add':
        return add(args, io);
      case 'disable':
        return disable(args, io);
      case undefined:
        throw new UsageError('Say what to do: balance show, balance enable, balance add or balance disable.');
      default:
        throw new UsageError(`balance ${JSON.stringify(action)} is unknown; there are show, enable, add and disable.`);
    }
  },
};

const ORGANIZATION = { organization: { type: 'string' }, json: { type: 'boolean' } } as const;
const CHANGE = { ...ORGANIZATION, 'idempotency-key': { type: 'string' } } as const;

async function show(args: readonly string[], io: CliIo): Promise<number> {
  const { values } = parseArguments(args, ORGANIZATION, { min: 0, max: 0 });
  return withLedger(io, async (ledger) => {
    await print(ledger, io, await findOrganization(ledger.context.db, values.organization), { json: values.json === true });
    return EXIT.done;
  });
}

async function enable(args: readonly string[], io: CliIo): Promise<number> {
  const { values } = parseArguments(args, { ...CHANGE, funds: { type: 'string' } }, { min: 0, max: 0 });
  const fundsMicros = values.funds === undefined ? null : parseAmount(values.funds);
  return change(io, values, (ledger, target) => createBalanceCommands(ledger.context).enable(null, { ...target, fundsMicros }));
}

async function add(args: readonly string[], io: CliIo): Promise<number> {
  const { values, positionals } = parseArguments(args, CHANGE, { min: 1, max: 1 });
  const micros = parseAmount(positionals[0] ?? '');
  return change(io, values, (ledger, target) => createBalanceCommands(ledger.context).addFunds(null, { ...target, micros }));
}

async function disable(args: readonly string[], io: CliIo): Promise<number> {
  const { values } = parseArguments(args, CHANGE, { min: 0, max: 0 });
  return change(io, values, (ledger, target) => createBalanceCommands(ledger.context).disable(null, target));
}

type Asked = {
  readonly organization?: string | undefined;
  readonly 'idempotency-key'?: string | undefined;
  readonly json?: boolean | undefined;
};
type Target = { readonly organizationId: string; readonly idempotencyKey: string | undefined };

async function change(
  io: CliIo,
  asked: Asked,
  run: (ledger: OpenLedger, target: Target) => Promise<Outcome<BalanceResult>>,
): Promise<number> {
  return withLedger(io, async (ledger) => {
    const organizationId = await findOrganization(ledger.context.db, asked.organization);
    const outcome = await run(ledger, { organizationId, idempotencyKey: asked['idempotency-key'] });
    if (isRefusal(outcome)) return refused(io, outcome);
    await print(ledger, io, organizationId, { json: asked.json === true, position: outcome.position });
    return EXIT.done;
  });
}

async function print(
  { context: { db } }: OpenLedger,
  io: CliIo,
  organizationId: string,
  { json, position }: { readonly json: boolean; readonly position?: bigint },
): Promise<void> {
  const balance = await readBalance(db, organizationId);
  if (json) {
    const shown = balance === null ? null : { micros: String(balance.micros), suspended: balance.suspended };
    io.out(JSON.stringify({ organizationId, balance: shown, ...(position === undefined ? {} : { position: String(position) }) }));
  } else if (balance === null) io.out('No balance is kept: nothing is charged.');
  else io.out(`Balance   ${formatMicros(balance.micros)}${balance.suspended ? '   suspended: no key passes until funds are added' : ''}`);
}

/** Millionths of the currency. Digits only, so that money never becomes a float on its way. */
function parseAmount(text: string): number {
  const [, whole = '', fraction = ''] = /^(\d{1,15})(?:\.(\d{1,6}))?$/.exec(text) ?? [];
  const micros = BigInt(`${whole}${fraction.padEnd(6, '0')}`);
  if (whole === '' || micros === 0n || micros > BigInt(Number.MAX_SAFE_INTEGER))
    throw new UsageError(`${JSON.stringify(text)} is no amount; give one above 0 with six places at most, such as 12.50.`);
  return Number(micros);
}

async function withLedger(io: CliIo, work: (ledger: OpenLedger) => Promise<number>): Promise<number> {
  const ledger = await openLedger(io, { create: false });
  try {
    return await work(ledger);
  } finally {
    await ledger.close();
  }
}
