import { sql, type Kysely } from 'kysely';

import type { Database } from '../postgres/pool.ts';
import type { Tables } from '../postgres/tables.ts';
import { compareStreams, STATE_PAGE, TABLES_OF, unaccountedRows, type StateDifference } from '../projections/state-difference.ts';
import { STREAM_KINDS, type FoldedKey, type FoldedStream } from '../projections/state-fold.ts';
import type { CheckStep } from './finding.ts';

/** Organizations, members, tokens and keys are, row by row and column by column, what their streams fold to; and so are the keys' verifiers. */
export async function checkState(database: Database, step: CheckStep): Promise<void> {
  const { rows } = await sql<{ n: bigint }>`SELECT count(*) AS n FROM events WHERE version = 1`.execute(database.kysely);
  const total = Number(rows[0]?.n ?? 0n);
  let done = 0;
  for (const kind of STREAM_KINDS) {
    let after: string | null = null;
    for (;;) {
      if (step.signal?.aborted === true) return;
      const { folded, differences } = await compareStreams(database, kind, { after, limit: STATE_PAGE }, (tx, streams) =>
        checkVerifiers(tx, streams, step),
      );
      for (const stream of folded) {
        if (stream.kind === 'unreadable')
          step.report({
            kind: 'stream-unreadable',
            subject: stream.stream,
            expected: 'a history that can be folded',
            found: stream.reason,
          });
      }
      for (const difference of differences) reportDifference(difference, step);
      step.progress((done += folded.length), Math.max(done, total));
      const last = folded.at(-1);
      if (last === undefined) break;
      after = last.stream;
    }
    for (const table of TABLES_OF[kind]) {
      for (const subject of await unaccountedRows(database.kysely, table)) {
        step.report({
          kind: 'row-unaccounted',
          subject: `${table} ${subject}`,
          expected: 'no row: the log has no such object',
          found: 'a row',
        });
      }
    }
  }
}

function reportDifference({ table, subject, columns, expected, found }: StateDifference, { report }: CheckStep): void {
  if (found === null) return report({ kind: 'row-missing', subject: `${table} ${subject}`, expected: 'a row', found: 'none' });
  for (const column of columns) {
    report({
      kind: 'row-differs',
      subject: `${table} ${subject} ${column}`,
      expected: JSON.stringify(expected[column] ?? null),
      found: JSON.stringify(found[column] ?? null),
    });
  }
}

type VerifierRow = {
  readonly lookup_id: string;
  readonly key_id: string;
  readonly key: number;
  readonly current: boolean;
  readonly expires_at: Date | null;
  readonly fingerprint: string;
};

/** The verifiers of these keys against the fingerprints that stand in the log, so that a verifier which somebody put there shows. */
async function checkVerifiers(tx: Kysely<Tables>, folded: readonly FoldedStream[], { report }: CheckStep): Promise<void> {
  const keys = folded.flatMap((stream) => (stream.kind === 'folded' && stream.key !== null ? [stream.key] : []));
  if (keys.length === 0) return;
  const { rows } = await sql<VerifierRow>`
    SELECT lookup_id, key_id, key, current, expires_at, encode(sha256(convert_to(argon2, 'UTF8')), 'hex') AS fingerprint
    FROM key_verifiers WHERE key_id = ANY(${keys.map((key) => key.keyId)}::uuid[])`.execute(tx);
  const clock = await sql<{ now: Date }>`SELECT now() AS now`.execute(tx);
  const now = clock.rows[0]?.now ?? new Date();
  const byKey = Map.groupBy(rows, (row) => row.key_id);
  for (const key of keys) {
    const subject = `verifiers of key ${key.keyId}`;
    const found = byKey.get(key.keyId) ?? [];
    const expected = expectedVerifiers(key);
    for (const row of found) {
      const wanted = expected.get(row.lookup_id);
      if (wanted === undefined || wanted.current !== row.current || wanted.until?.getTime() !== row.expires_at?.getTime()) {
        report({
          kind: 'verifier-unexpected',
          subject,
          expected: shown(expected),
          found: `${row.lookup_id} (${row.current ? 'current' : `outdated until ${row.expires_at?.toISOString() ?? 'never'}`})`,
        });
      } else if (key.state.kind !== 'absent' && key.state.number !== row.key) {
        report({
          kind: 'verifier-differs',
          subject: `${subject}, ${row.lookup_id}`,
          expected: `key number ${key.state.number}`,
          found: `key number ${row.key}`,
        });
      } else if (wanted.fingerprint !== row.fingerprint) {
        report({
          kind: 'verifier-differs',
          subject: `${subject}, ${row.lookup_id}`,
          expected: `SHA-256 ${wanted.fingerprint}`,
          found: `SHA-256 ${row.fingerprint}`,
        });
      }
    }
    for (const [lookupId, { until }] of expected) {
      // An outdated secret's verifier is erased some time after its last moment.
      if (found.some((row) => row.lookup_id === lookupId) || (until !== null && until <= now)) continue;
      report({ kind: 'verifier-missing', subject: `${subject}, ${lookupId}`, expected: 'a verifier', found: 'none' });
    }
  }
}

type Verifier = { readonly current: boolean; readonly until: Date | null; readonly fingerprint: string | undefined };

function expectedVerifiers({ state, fingerprints }: FoldedKey): ReadonlyMap<string, Verifier> {
  if (state.kind === 'absent' || state.kind === 'deleted') return new Map();
  const outdated = state.outdatedSecrets.map(
    ({ lookupId, until }) => [lookupId, { current: false, until: new Date(until), fingerprint: fingerprints.get(lookupId) }] as const,
  );
  return new Map<string, Verifier>([
    ...outdated,
    [state.secret.lookupId, { current: true, until: null, fingerprint: state.secret.verifierFingerprint }],
  ]);
}

function shown(expected: ReadonlyMap<string, Verifier>): string {
  if (expected.size === 0) return 'none, the key was deleted';
  return [...expected]
    .map(([lookupId, { until }]) => (until === null ? `${lookupId} (current)` : `${lookupId} (outdated until ${until.toISOString()})`))
    .join(', ');
}
