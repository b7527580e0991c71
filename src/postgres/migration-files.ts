import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** `sha256` is hex, over the text with line ends as `\n`, so that a checkout under Windows has the same one. */
export type MigrationFile = { readonly name: string; readonly sql: string; readonly sha256: string };
export type AppliedMigration = { readonly name: string; readonly sha256: string };

/** Relative to this module, which lies two folders below the package's root in `src/` and in `dist/` alike. */
export const MIGRATIONS_DIRECTORY = fileURLToPath(new URL('../../migrations/', import.meta.url));

export async function readMigrationFiles(directory: string = MIGRATIONS_DIRECTORY): Promise<readonly MigrationFile[]> {
  const names = (await readdir(directory)).filter((name) => name.endsWith('.sql')).sort();
  const numbers = new Map<string, string>();
  const files: MigrationFile[] = [];
  for (const name of names) {
    const number = /^(\d{4})_[a-z0-9_]+\.sql$/.exec(name)?.[1];
    if (number === undefined) throw new Error(`The migration ${name} is not named NNNN_name.sql (four digits, then a-z 0-9 _).`);
    const other = numbers.get(number);
    if (other !== undefined) throw new Error(`The migrations ${other} and ${name} have the same number.`);
    numbers.set(number, name);
    const sql = (await readFile(join(directory, name), 'utf8')).replaceAll('\r\n', '\n');
    files.push({ name, sql, sha256: createHash('sha256').update(sql).digest('hex') });
  }
  return files;
}

export type MigrationState =
  | { readonly kind: 'current' }
  | { readonly kind: 'behind'; readonly pending: readonly MigrationFile[] }
  /** The database was migrated by a newer keyledger. */
  | { readonly kind: 'newer'; readonly unknown: readonly string[] }
  /** Files were edited after they had been applied. */
  | { readonly kind: 'changed'; readonly names: readonly string[] }
  /** A file with a lower number than an applied one appeared. */
  | { readonly kind: 'outOfOrder'; readonly names: readonly string[] };

export function compareMigrations(files: readonly MigrationFile[], applied: readonly AppliedMigration[]): MigrationState {
  const byName = new Map(files.map((file) => [file.name, file]));
  const unknown = applied.filter(({ name }) => !byName.has(name)).map(({ name }) => name);
  if (unknown.length > 0) return { kind: 'newer', unknown };
  const changed = applied.filter(({ name, sha256 }) => byName.get(name)?.sha256 !== sha256).map(({ name }) => name);
  if (changed.length > 0) return { kind: 'changed', names: changed };
  const appliedNames = new Set(applied.map(({ name }) => name));
  const pending = files.filter(({ name }) => !appliedNames.has(name));
  const last = [...appliedNames].sort().at(-1) ?? '';
  const late = pending.filter(({ name }) => name < last).map(({ name }) => name);
  if (late.length > 0) return { kind: 'outOfOrder', names: late };
  return pending.length === 0 ? { kind: 'current' } : { kind: 'behind', pending };
}
