import { sql } from 'kysely';

import type { Effect } from '../ledger/append.ts';

/** The effects that give a new key its empty windows, in the statement that appends. */
export function newWindowRows(keyNumber: number): readonly Effect[] {
  return [
    {
      name: 'new_windows',
      statement: sql`
        INSERT INTO key_windows (key, second_bucket, half_hour_bucket, quarter_bucket)
        SELECT ${keyNumber}::integer, floor(epoch), floor(epoch / 1800), floor(epoch / 21600)
        FROM (SELECT extract(epoch FROM recorded_at) AS epoch FROM appended) AS e`,
    },
    { name: 'new_window_buckets', statement: sql`INSERT INTO key_window_buckets (key) SELECT ${keyNumber}::integer FROM appended` },
  ];
}
