import { sql, type Kysely } from 'kysely';

import type { ImportCommands } from '../commands/import-commands.ts';
import { importedKeySchema, MAX_IMPORTED_KEYS } from '../commands/import-input.ts';
import { parseInput } from '../commands/input.ts';
import { parseSha256 } from '../domain/foreign-key.ts';
import { isRefusal } from '../domain/refusals.ts';
import { idOf, splitMemberId } from '../graphql/global-id.ts';
import type { Tables } from '../postgres/tables.ts';
import { foldName } from '../projections/key-row.ts';
import type { Entry } from './parse-entries.ts';

const MAX_NAME = 50;
const MIN_NAME = 3;
/** So often a batch is tried again after somebody else took a name of it in between. */
const RACES = 5;

export type ImportOptions = {
  readonly organizationId: string;
  readonly entries: readonly Entry[];
  readonly signal: AbortSignal;
  readonly onFault: (fault: { readonly line: number; readonly message: string }) => void;
  readonly onRename: (renamed: { readonly line: number; readonly name: string }) => void;
  readonly onProgress: (done: number) => void;
};

export type ImportOutcome = {
  readonly imported: number;
  readonly already: number;
  readonly failed: number;
  readonly interrupted: boolean;
  /** Why no further key can be imported; null where all were tried. */
  readonly stopped: string | null;
};

type Candidate = { readonly line: number; readonly hash: Buffer; readonly value: Readonly<Record<string, unknown>> };

/** Imports the entries of a file in batches; what is there already is left alone, so that a second run goes on where the first one stopped. */
export async function importEntries(
  db: Kysely<Tables>,
  importKeys: ImportCommands['importKeys'],
  { organizationId, entries, signal, onFault, onRename, onProgress }: ImportOptions,
): Promise<ImportOutcome> {
  const counts = { imported: 0, already: 0, failed: 0 };
  const seen = new Set<string>();
  const fail = (line: number, message: string): void => {
    counts.failed++;
    onFault({ line, message });
  };

  function candidates(page: readonly Entry[]): readonly Candidate[] {
    return page.flatMap((entry) => {
      const candidate = candidateOf(entry, seen);
      if (typeof candidate !== 'string') return [candidate];
      fail(entry.line, candidate);
      return [];
    });
  }

  /** Imports what of a batch can be; answers why nothing more can be, or null. */
  async function importBatch(batch: readonly Candidate[]): Promise<string | null> {
    const there = await importedBefore(db, organizationId, batch);
    counts.already += batch.filter(({ hash }) => there.has(hash.toString('hex'))).length;
    let left = batch.filter(({ hash }) => !there.has(hash.toString('hex')));
    for (let races = 0; left.length > 0;) {
      const taken = await takenNames(db, organizationId, left);
      const named = left.flatMap((candidate) => {
        const name = freeName(candidate, taken);
        const parsed = parseInput(importedKeySchema, { ...candidate.value, name });
        if (parsed.ok) return [{ ...candidate, name }];
        fail(candidate.line, parsed.refusal.message);
        return [];
      });
      left = named;
      if (left.length === 0) return null;
      const outcome = await importKeys(null, { organizationId, keys: named.map(({ value, name }) => ({ ...value, name })) });
      if (!isRefusal(outcome)) {
        counts.imported += left.length;
        for (const { line, name, value } of named) if (name !== value['name'] && typeof name === 'string') onRename({ line, name });
        return null;
      }
      const index = /^keys\.(\d+)/.exec(outcome.field ?? '')?.[1];
      const culprit = index === undefined ? undefined : left[Number(index)];
      if (culprit !== undefined) {
        fail(culprit.line, outcome.message);
        left = left.filter((candidate) => candidate !== culprit);
      } else if (outcome.field !== 'keys' || ++races > RACES) return outcome.message;
    }
    return null;
  }

  for (let from = 0; from < entries.length; from += MAX_IMPORTED_KEYS) {
    if (signal.aborted) return { ...counts, interrupted: true, stopped: null };
    const stopped = await importBatch(candidates(entries.slice(from, from + MAX_IMPORTED_KEYS)));
    if (stopped !== null) return { ...counts, interrupted: false, stopped };
    onProgress(Math.min(entries.length, from + MAX_IMPORTED_KEYS));
  }
  return { ...counts, interrupted: false, stopped: null };
}

/** What can be imported of an entry, or what is wrong with it; adds its hash to those seen. */
function candidateOf(entry: Entry, seen: Set<string>): Candidate | string {
  if ('fault' in entry) return entry.fault;
  const { line, value } = entry;
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return 'give a JSON object';
  const fields = value as Readonly<Record<string, unknown>>;
  const hash = typeof fields['hash'] === 'string' ? parseSha256(fields['hash'].trim()) : null;
  if (hash === null) return "'hash': give the SHA-256 of the key's whole text, in hex, base64 or base64url";
  const name = hash.toString('hex');
  if (seen.has(name)) return 'an earlier line has this hash';
  seen.add(name);
  return { line, hash, value: withPlainIds(fields) };
}

/** Ids may be written as GraphQL shows them; what is none is refused with the rest of the line. */
function withPlainIds(fields: Candidate['value']): Candidate['value'] {
  const { profileId, ownerId } = fields;
  const member = typeof ownerId === 'string' ? idOf('Member', ownerId) : null;
  return {
    ...fields,
    ...(typeof profileId === 'string' ? { profileId: idOf('Profile', profileId) ?? profileId } : {}),
    ...(member === null ? {} : { ownerId: splitMemberId(member).memberId }),
  };
}

/** The name that was given, or where that is none, too short or taken, one with the beginning of the hash; the same in every run. Adds it to those taken. */
function freeName({ value, hash }: Candidate, taken: Set<string>): unknown {
  const given = value['name'];
  if (given !== undefined && given !== null && typeof given !== 'string') return given; // refused with the rest of the line
  const base = (given ?? '').normalize('NFC').trim();
  const suffix = ` ${hash.toString('hex').slice(0, 8)}`;
  const completed = [...(base === '' ? 'imported' : base)].slice(0, MAX_NAME - suffix.length).join('') + suffix;
  const name = [...base].length >= MIN_NAME && !taken.has(foldName(base)) ? base : completed;
  taken.add(foldName(name));
  return name === base ? given : name;
}

async function importedBefore(db: Kysely<Tables>, organizationId: string, batch: readonly Candidate[]): Promise<ReadonlySet<string>> {
  const { rows } = await sql<{ hash: Buffer }>`
    SELECT hash FROM imported_secrets WHERE organization_id = ${organizationId}::uuid AND hash = ANY (${batch.map(({ hash }) => hash)}::bytea[])`.execute(
    db,
  );
  return new Set(rows.map(({ hash }) => hash.toString('hex')));
}

async function takenNames(db: Kysely<Tables>, organizationId: string, batch: readonly Candidate[]): Promise<Set<string>> {
  const names = batch.flatMap(({ value }) => (typeof value['name'] === 'string' ? [foldName(value['name'].normalize('NFC').trim())] : []));
  const { rows } = await sql<{ name_folded: string }>`
    SELECT name_folded FROM api_keys WHERE organization_id = ${organizationId}::uuid AND state <> 'deleted' AND name_folded = ANY (${names}::text[])`.execute(
    db,
  );
  return new Set(rows.map((row) => row.name_folded));
}
