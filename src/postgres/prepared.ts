import { sql, type RawBuilder } from 'kysely';
import type pg from 'pg';

const MARK = '/* prepared */ ';

/** So many texts at most; further ones are planned each time. */
const MAX_PREPARED = 200;

/**
 * Stands at the beginning of a statement that is asked again and again: each connection then parses it once and plans it a few times at most. For a statement over partitioned tables
 * that is milliseconds. Its text must be one of a few, and its plan right whatever its parameters.
 */
export const PREPARED: RawBuilder<unknown> = sql.raw(MARK);

const names = new Map<string, string>();

/** The statement with a name of its own, by which node-postgres prepares it; undefined for all others. */
export function asPrepared(text: string, values: unknown): pg.QueryConfig | undefined {
  if (!text.startsWith(MARK)) return undefined;
  let name = names.get(text);
  if (name === undefined) {
    if (names.size === MAX_PREPARED) return undefined;
    name = `keyledger_${names.size}`;
    names.set(text, name);
  }
  return Array.isArray(values) ? { name, text, values: values as readonly unknown[] as unknown[] } : { name, text };
}
