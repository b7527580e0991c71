import type { ColumnType } from 'kysely';

import type { JsonValue } from '../lib/canonical-json.ts';

export type Timestamp = ColumnType<Date, Date | string, Date | string>;
export type NullableTimestamp = ColumnType<Date | null, Date | string | null, Date | string | null>;
/** Written as text, read parsed. */
export type Json = ColumnType<JsonValue, string, string>;
