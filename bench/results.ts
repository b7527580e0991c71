import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { cpus, release, totalmem, type as systemName } from 'node:os';
import { fileURLToPath } from 'node:url';

import type { RowMeasurement } from './bench.ts';
import type { BenchOptions } from './options.ts';
import type { RowId } from './rows.ts';

export const RESULTS_DIRECTORY = fileURLToPath(new URL('results/', import.meta.url));
const LATEST = `${RESULTS_DIRECTORY}latest.json`;

export type Machine = {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGib: number;
  readonly system: string;
  readonly node: string;
  readonly postgres: string;
};

export type RowResult = {
  readonly value: number;
  /** One a repetition; `value` is their median. */
  readonly values: readonly number[];
  readonly measuredAt: string;
  readonly seconds: number;
  readonly repetitions: number;
  readonly machine: Machine;
  readonly detail: unknown;
};

/** The newest result of each row, which may come from different runs. */
export type Results = { readonly rows: Readonly<Partial<Record<RowId, RowResult>>> };

export function describeMachine(postgres: string): Machine {
  const [first] = cpus();
  return {
    cpu: first?.model.trim() ?? 'unknown',
    cores: cpus().length,
    memoryGib: Math.round(totalmem() / 2 ** 30),
    system: `${systemName()} ${release()}`,
    node: process.versions.node,
    postgres,
  };
}

export function toResult(
  { values, detail }: RowMeasurement,
  value: number,
  run: { readonly options: BenchOptions; readonly machine: Machine; readonly measuredAt: Date },
): RowResult {
  const { seconds } = run.options;
  return { value, values, measuredAt: run.measuredAt.toISOString(), seconds, repetitions: values.length, machine: run.machine, detail };
}

export async function readResults(path: string = LATEST): Promise<Results> {
  try {
    // Written by `writeResults`.
    return JSON.parse(await readFile(path, 'utf8')) as Results;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return { rows: {} };
    throw error;
  }
}

/** Keeps what this run measured under its own name, and puts its rows in place of older ones in the summary. Answers the summary. */
export async function writeResults(measured: Results, at: Date): Promise<Results> {
  await mkdir(RESULTS_DIRECTORY, { recursive: true });
  await writeFile(`${RESULTS_DIRECTORY}${at.toISOString().replaceAll(/[:.]/g, '-')}.json`, `${JSON.stringify(measured, null, 2)}\n`);
  const merged: Results = { rows: { ...(await readResults()).rows, ...measured.rows } };
  await writeFile(LATEST, `${JSON.stringify(merged, null, 2)}\n`);
  return merged;
}
