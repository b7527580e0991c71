import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

import { readResults, type Machine, type Results, type RowResult } from './results.ts';
import { ROWS, verdictOf, type RowDefinition, type RowId, type Verdict } from './rows.ts';

const PAGE = fileURLToPath(new URL('../docs/performance.md', import.meta.url));
const BEGIN = '<!-- bench:begin -->';
const END = '<!-- bench:end -->';
const VERDICTS: Readonly<Record<Verdict, string>> = { goal: 'goal', floor: 'floor', below: '**below the floor**' };

/** The results as a Markdown fragment: the machine, and a row for each figure that was measured. */
export function renderResults({ rows }: Results): string {
  const measured = ROWS.flatMap((row) => {
    const result = rows[row.id satisfies RowId];
    return result === undefined ? [] : [{ row: row as RowDefinition, result }];
  });
  const machines = [...new Set(measured.map(({ result }) => machineLine(result.machine)))];
  if (measured.length === 0) return 'Nothing was measured yet: `npm run bench`, then `node bench/report.ts`.\n';
  const unmeasured = ROWS.filter((row) => rows[row.id] === undefined).map((row) => `\`${row.id}\``);
  return [
    ...machines.map((line) => `Measured on ${line}.`),
    '',
    '| Row | What | Floor | Goal | Measured | From – to | Reaches | When |',
    '|---|---|---|---|---|---|---|---|',
    ...measured.map(({ row, result }) => tableRow(row, result)),
    ...(unmeasured.length === 0 ? [] : ['', `Not measured: ${unmeasured.join(', ')}.`]),
    '',
  ].join('\n');
}

function tableRow(row: RowDefinition, { value, values, measuredAt, seconds, repetitions }: RowResult): string {
  const cells = [
    `\`${row.id}\``,
    row.what,
    figure(row.floor),
    figure(row.goal),
    `**${figure(value)}** ${row.unit}`,
    `${figure(Math.min(...values))} – ${figure(Math.max(...values))}`,
    VERDICTS[verdictOf(row, value)],
    `${measuredAt.slice(0, 10)}, ${repetitions} × ${seconds} s`,
  ];
  return `| ${cells.join(' | ')} |`;
}

/** Three significant digits. */
export function figure(value: number): string {
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3).replace(/\.?0+$/, '');
}

function machineLine({ cpu, cores, memoryGib, system, node, postgres }: Machine): string {
  return `${cpu}, ${cores} cores, ${memoryGib} GiB, ${system}, Node ${node}, Postgres ${postgres}`;
}

/** Puts the fragment between the markers of docs/performance.md. */
async function renderPage(): Promise<void> {
  const page = await readFile(PAGE, 'utf8');
  const [begin, end] = [page.indexOf(BEGIN), page.indexOf(END)];
  if (begin === -1 || end < begin) throw new Error(`${PAGE} has no ${BEGIN} … ${END} to write between`);
  await writeFile(PAGE, `${page.slice(0, begin + BEGIN.length)}\n${renderResults(await readResults())}${page.slice(end)}`);
}

if (import.meta.main) await renderPage();
