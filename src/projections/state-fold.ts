import { sql, type Kysely } from 'kysely';

import { ABSENT_KEY, evolveKey, type KeyState } from '../domain/api-key.ts';
import { parseEvent, type KeyEvent } from '../domain/event.ts';
import type { JsonValue } from '../lib/canonical-json.ts';
import type { Tables } from '../postgres/tables.ts';
import type { FoldedRow, RecordedEvent } from './folded-row.ts';
import { alertRows, alertRuleRows, organizationRows, profileRows, tokenRows, webhookRows } from './folded-rows.ts';
import { keyRow } from './key-row.ts';

/** The kinds of stream, in the order in which their rows refer to each other. */
export const STREAM_KINDS = ['organization', 'token', 'profile', 'key', 'alert-rule', 'alert', 'webhook'] as const;
export type StreamKind = (typeof STREAM_KINDS)[number];

/** A stream's last state with the rows that it should have left; `key` is there for the streams of keys. */
export type FoldedStream =
  | { readonly kind: 'folded'; readonly stream: string; readonly rows: readonly FoldedRow[]; readonly key: FoldedKey | null }
  /** An event is unknown, out of order or not what its schema says. */
  | { readonly kind: 'unreadable'; readonly stream: string; readonly reason: string };

/** A key's state with the fingerprint of each secret that it ever had, by lookup id. */
export type FoldedKey = { readonly keyId: string; readonly state: KeyState; readonly fingerprints: ReadonlyMap<string, string> };

type Row = {
  readonly stream: string;
  readonly organization_id: string;
  readonly version: number;
  readonly type: string;
  readonly actor: string;
  readonly recorded_at: string;
  readonly position: string;
  readonly data: JsonValue;
};

/** The streams that follow one by name, `limit` at most; or one alone. */
export type StreamChoice = { readonly after: string | null; readonly limit: number } | { readonly stream: string };

/** Folds streams of one kind, in the order of their names. Run it in the transaction that compares, so that both see one moment. */
export async function foldStreams(db: Kysely<Tables>, kind: StreamKind, choice: StreamChoice): Promise<readonly FoldedStream[]> {
  const picked =
    'stream' in choice
      ? sql`SELECT ${choice.stream}::text AS stream`
      : sql`SELECT DISTINCT stream FROM events WHERE stream > ${choice.after ?? `${kind}:`} AND stream < ${`${kind};`} ORDER BY stream LIMIT ${choice.limit}`;
  const { rows } = await sql<Row>`
    SELECT e.stream, e.organization_id, e.version, e.type, e.actor, e.recorded_at::text, e.position::text, e.data
    FROM (${picked}) AS s JOIN events e USING (stream)
    ORDER BY e.stream, e.version`.execute(db);
  return [...Map.groupBy(rows, (row) => row.stream)].map(([stream, events]) => foldStream(kind, stream, events));
}

function foldStream(kind: StreamKind, stream: string, rows: readonly Row[]): FoldedStream {
  try {
    switch (kind) {
      case 'organization':
        return { kind: 'folded', stream, rows: organizationRows(parsed(rows, parseEvent.organization)), key: null };
      case 'token':
        return { kind: 'folded', stream, rows: tokenRows(parsed(rows, parseEvent.token)), key: null };
      case 'profile':
        return { kind: 'folded', stream, rows: profileRows(parsed(rows, parseEvent.profile)), key: null };
      case 'key':
        return foldKey(stream, parsed(rows, parseEvent.key));
      case 'alert-rule':
        return { kind: 'folded', stream, rows: alertRuleRows(parsed(rows, parseEvent.alertRule)), key: null };
      case 'alert':
        return { kind: 'folded', stream, rows: alertRows(parsed(rows, parseEvent.alert)), key: null };
      case 'webhook':
        return { kind: 'folded', stream, rows: webhookRows(parsed(rows, parseEvent.webhook)), key: null };
    }
    return kind satisfies never;
  } catch (error) {
    return { kind: 'unreadable', stream, reason: error instanceof Error ? error.message : String(error) };
  }
}

function parsed<Event>(rows: readonly Row[], parse: (type: string, data: unknown) => Event): readonly RecordedEvent<Event>[] {
  return rows.map((row) => ({
    event: parse(row.type, row.data),
    organizationId: row.organization_id,
    version: row.version,
    actor: row.actor,
    at: row.recorded_at,
    position: row.position,
  }));
}

function foldKey(stream: string, events: readonly RecordedEvent<KeyEvent>[]): FoldedStream {
  const state = events.reduce<KeyState>((folded, { event }) => evolveKey(folded, event), ABSENT_KEY);
  const first = events[0];
  const secrets = events.flatMap(({ event, at }) =>
    event.type === 'KeyCreated' || event.type === 'KeyImported' || event.type === 'Regenerated' ? [{ ...event.data, at }] : [],
  );
  const newest = secrets.at(-1);
  if (state.kind === 'absent' || first === undefined || newest === undefined)
    return { kind: 'unreadable', stream, reason: 'it does not begin with KeyCreated or KeyImported' };
  const row = keyRow(state);
  return {
    kind: 'folded',
    stream,
    key: { keyId: state.keyId, state, fingerprints: fingerprintsOf(events) },
    rows: [
      {
        table: 'api_keys',
        row: {
          ...row,
          expires_at: row.expires_at?.toISOString() ?? null,
          metadata: state.settings.metadata,
          organization_id: first.organizationId,
          created_at: first.at,
          created_by: first.actor,
          secret_created_at: newest.at,
          version: events.length,
        },
      },
    ],
  };
}

/** The newest fingerprint of each secret that a key ever had. */
function fingerprintsOf(events: readonly RecordedEvent<KeyEvent>[]): ReadonlyMap<string, string> {
  return new Map(
    events.flatMap(({ event }): readonly (readonly [string, string])[] =>
      'verifierFingerprint' in event.data ? [[event.data.lookupId, event.data.verifierFingerprint]] : [],
    ),
  );
}
