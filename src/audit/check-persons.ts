import { sql } from 'kysely';

import { parseEvent, streamOf } from '../domain/event.ts';
import { archiveReason, evolvePerson, NEW_PERSON } from '../domain/person.ts';
import type { Database } from '../postgres/pool.ts';
import type { CheckStep } from './finding.ts';

/** Persons in one snapshot. */
const PAGE = 200;

type Row = { readonly stream: string; readonly organization_id: string; readonly type: string; readonly data: unknown };

/** A personal key is archived while its owner belongs to a team and once they have left, by the histories of both: nobody's key passes where it should not. */
export async function checkPersons({ kysely }: Database, step: CheckStep): Promise<void> {
  let after = streamOf.person('');
  let done = 0;
  while (step.signal?.aborted !== true) {
    const last = await kysely
      .transaction()
      .setIsolationLevel('repeatable read')
      .setAccessMode('read only')
      .execute(async (tx) => {
        const { rows } = await sql<Row>`
          SELECT e.stream, e.organization_id, e.type, e.data
          FROM (SELECT DISTINCT stream FROM events WHERE stream > ${after} AND stream < 'person;' ORDER BY stream LIMIT ${PAGE}) AS picked JOIN events e USING (stream)
          ORDER BY e.stream, e.version`.execute(tx);
        const expected = new Map<string, boolean>();
        for (const events of Map.groupBy(rows, (row) => row.stream).values()) {
          const person = events.reduce(
            (state, row) => evolvePerson(state, parseEvent.person(row.type, row.data), row.organization_id),
            NEW_PERSON,
          );
          for (const key of person.keys) expected.set(key.keyId, archiveReason(person, key) !== null);
        }
        const found = await tx
          .selectFrom('api_keys')
          .select(['id', 'archived'])
          .where('id', '=', sql<string>`ANY(${[...expected.keys()]}::uuid[])`)
          .where('state', '<>', 'deleted')
          .execute();
        for (const { id, archived } of found) {
          if (archived !== expected.get(id))
            step.report({
              kind: 'archived-differs',
              subject: `key ${id}`,
              expected: archived
                ? 'not archived: its owner is there and belongs to no team'
                : 'archived: its owner belongs to a team, or has left',
              found: archived ? 'archived' : 'not archived',
            });
        }
        done += expected.size;
        return rows.at(-1)?.stream;
      });
    if (last === undefined) return;
    step.progress(done, done);
    after = last;
  }
}
