import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

import { describe, expect, test } from 'vitest';

const root = new URL('../', import.meta.url);
const read = (path: string) => readFile(new URL(path, root), 'utf8');

/** How many rows each section has. */
const SECTIONS = [12, 9, 5, 6, 5, 3, 6];
const ROWS = SECTIONS.flatMap((count, section) => Array.from({ length: count }, (_, index) => `${section + 1}.${index + 1}`));

type Row = { readonly row: string; readonly where: string; readonly shownBy: readonly string[] };

/** The rows of docs/features.md's tables. */
function rowsOf(text: string): readonly Row[] {
  return [...text.matchAll(/^\| (\d\.\d+) \| [^|]+ \| ([^|]+) \| ([^|]+) \|$/gm)].map(([, row = '', where = '', shownBy = '']) => ({
    row,
    where,
    shownBy: shownBy === 'not yet' ? [] : shownBy.split(', '),
  }));
}

/** The rows that the names of a file's tests begin with, one or more with commas between. */
function rowsNamedIn(source: string): ReadonlySet<string> {
  const titles = source.matchAll(/\(\s*['"`]((?:\d\.\d{1,2}, )*\d\.\d{1,2}) [^\d\s]/g);
  return new Set([...titles].flatMap(([, rows = '']) => rows.split(', ')));
}

describe('features.md', () => {
  test('has each row once, in order', async () => {
    expect(rowsOf(await read('docs/features.md')).map(({ row }) => row)).toEqual(ROWS);
  });

  test('names for each row tests that are there and have its number in a name', async () => {
    const wrong: string[] = [];
    for (const { row, where, shownBy } of rowsOf(await read('docs/features.md'))) {
      if (shownBy.length === 0 && !/not yet/i.test(where)) wrong.push(`${row} works, but no test shows it`);
      for (const file of shownBy) {
        if (!existsSync(new URL(file, root))) wrong.push(`${row}: there is no ${file}`);
        else if (!rowsNamedIn(await read(file)).has(row)) wrong.push(`${row}: no test of ${file} begins with it`);
      }
    }
    expect(wrong).toEqual([]);
  });

  test('leaves out no test that has the number of a row in its name', async () => {
    const shown = new Map(rowsOf(await read('docs/features.md')).map(({ row, shownBy }) => [row, shownBy]));
    const missing: string[] = [];
    for (const file of await readdir(fileURLToPath(new URL('test/', root)), { recursive: true })) {
      if (!file.endsWith('.test.ts')) continue;
      for (const row of rowsNamedIn(await read(`test/${file}`))) {
        if (!(shown.get(row) ?? []).includes(`test/${file}`)) missing.push(`${row}: test/${file}`);
      }
    }
    expect(missing).toEqual([]);
  });

  test('the control: a row number is found in a title, and not in other numbers', () => {
    const cases: readonly (readonly [string, readonly string[]])[] = [
      ['1.9 the secret', ['1.9']],
      ['2.2, 2.3 gets %s', ['2.2', '2.3']],
      ['takes 1.9 of it', []],
      ['1.9.0.1 x', []],
      ['1.5 2 x', []],
      ['1.9', []],
    ];
    for (const [title, rows] of cases) expect([...rowsNamedIn(`it('${title}', …`)]).toEqual(rows);
  });
});
