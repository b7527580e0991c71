import type { Kysely } from 'kysely';

import { replay, type Replay, type ReplaySubject } from '../audit/replay.ts';
import { headPosition } from '../ledger/append.ts';
import type { AsOf } from '../ledger/stream.ts';
import type { Tables } from '../postgres/tables.ts';
import { EXIT, parseArguments, UsageError, type CliCommand, type CliIo } from './command.ts';
import { findOrganization, isUuid } from './find-organization.ts';
import { openLedger } from './open-ledger.ts';

export const replayCommand: CliCommand = {
  name: 'replay',
  summary: 'tell the history of a key or an organization, and its state at any moment',
  help: `keyledger replay key KEY-ID [--position N | --at MOMENT] [--json]
keyledger replay organization [ID|NAME] [--position N | --at MOMENT] [--json]

Folds the log up to a position or moment (inclusive; to the end where none is given) and prints the timeline and the state that it leaves.

  --position N   the last position to fold
  --at MOMENT    the last moment to fold, such as 2030-01-31T12:00:00Z
  --json         answer as one JSON object`,
  run: async (args, io) => {
    const { values, positionals } = parseArguments(
      args,
      { position: { type: 'string' }, at: { type: 'string' }, json: { type: 'boolean' } },
      { min: 1, max: 2 },
    );
    const [kind, id] = positionals;
    if (kind !== 'key' && kind !== 'organization')
      throw new UsageError(`${JSON.stringify(kind)} can't be replayed; there are key and organization.`);
    if (kind === 'key' && (id === undefined || !isUuid(id))) throw new UsageError('Give the id of the key, a UUID.');
    const asOf = parseAsOf(values.position, values.at);
    const ledger = await openLedger(io, { create: false });
    try {
      const { db } = ledger.context;
      const subject: ReplaySubject = { kind, id: kind === 'key' ? (id ?? '').toLowerCase() : await findOrganization(db, id) };
      await refuseBeyond(db, asOf);
      const history = await replay(db, subject, asOf);
      if (history === null) {
        io.err(`The log has no ${kind} ${subject.id}.`);
        return EXIT.failed;
      }
      if (values.json === true) io.out(JSON.stringify(history));
      else print(history, io);
      return EXIT.done;
    } finally {
      await ledger.close();
    }
  },
};

function parseAsOf(position: string | undefined, at: string | undefined): AsOf {
  if (position !== undefined && at !== undefined) throw new UsageError('Give --position or --at, not both.');
  if (position !== undefined) {
    if (!/^\d{1,18}$/.test(position)) throw new UsageError(`--position takes a decimal number, not ${JSON.stringify(position)}.`);
    return { position: BigInt(position) };
  }
  if (at === undefined) return {};
  // A moment without an offset would mean another one on each machine.
  const moment = /(?:Z|[+-]\d{2}:\d{2})$/.test(at) ? new Date(at) : new Date(Number.NaN);
  if (Number.isNaN(moment.getTime()))
    throw new UsageError(`--at takes a moment with its offset, such as 2030-01-31T12:00:00Z, not ${JSON.stringify(at)}.`);
  return { at: moment };
}

/** What has not happened yet is no past. */
async function refuseBeyond(db: Kysely<Tables>, { position }: AsOf): Promise<void> {
  const head = await headPosition(db);
  if (position !== undefined && position > head)
    throw new UsageError(`--position ${position} lies beyond the end of the log, which is ${head}.`);
}

function print({ subject, at, events, state }: Replay, io: CliIo): void {
  for (const event of events) {
    const whose = subject.kind === 'organization' ? `  ${event.stream}` : '';
    io.out(`${event.position.padStart(8)}  ${event.at}  ${event.type}  by ${event.actor}${whose}`);
    for (const change of event.changes) io.out(`          ${change}`);
  }
  io.out('');
  if (state === null) return io.out(`At ${at} there was no ${subject.kind} ${subject.id} yet.`);
  io.out(`The ${subject.kind} at ${at}:`);
  for (const line of JSON.stringify(state, null, 2).split('\n')) io.out(line);
}
