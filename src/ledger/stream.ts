import type { Kysely } from 'kysely';

import type { Recorded, LifecycleEvent } from '../domain/event.ts';
import type { Tables } from '../postgres/tables.ts';

/** An aggregate's state with the version it was folded to; version 0 is an empty stream. */
export type Loaded<State> = { readonly state: State; readonly version: number };

type Fold<State, Event extends LifecycleEvent> = {
  readonly initial: State;
  readonly parse: (type: string, data: unknown) => Event;
  readonly evolve: (state: State, event: Event) => State;
};

/** Where to stop folding: everything, up to a position, or up to a moment (both inclusive). */
export type AsOf = { readonly position?: bigint; readonly at?: Date };

/** The events of one stream in order. A stream of another organization reads as empty. */
export async function readStream<Event extends LifecycleEvent>(
  db: Kysely<Tables>,
  organizationId: string,
  stream: string,
  parse: (type: string, data: unknown) => Event,
  asOf: AsOf = {},
): Promise<readonly Recorded<Event>[]> {
  let query = db
    .selectFrom('events')
    .selectAll()
    .where('stream', '=', stream)
    .where('organization_id', '=', organizationId)
    .orderBy('version');
  if (asOf.position !== undefined) query = query.where('position', '<=', asOf.position);
  if (asOf.at !== undefined) query = query.where('recorded_at', '<=', asOf.at);
  const rows = await query.execute();
  return rows.map((row) => ({
    ...parse(row.type, row.data),
    position: row.position,
    organizationId: row.organization_id,
    stream: row.stream,
    version: row.version,
    actorId: row.actor,
    recordedAt: row.recorded_at,
  }));
}

/** Folds one stream to its state, now or as of a past position or moment. */
export async function loadStream<State, Event extends LifecycleEvent>(
  db: Kysely<Tables>,
  organizationId: string,
  stream: string,
  fold: Fold<State, Event>,
  asOf: AsOf = {},
): Promise<Loaded<State>> {
  const events = await readStream(db, organizationId, stream, fold.parse, asOf);
  return { state: events.reduce<State>((state, event) => fold.evolve(state, event), fold.initial), version: events.at(-1)?.version ?? 0 };
}
