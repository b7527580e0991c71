import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { createBench, type RowMeasurement } from './bench.ts';
import { startBenchPostgres } from './database/bench-postgres.ts';
import { startLoadGenerator } from './load/load-generator.ts';
import { topStatements } from './explained.ts';
import { median } from './median.ts';
import { isStatedSize, parseOptions, USAGE, type BenchOptions } from './options.ts';
import { topFunctions } from './profile.ts';
import { figure, renderResults } from './report.ts';
import { describeMachine, RESULTS_DIRECTORY, toResult, writeResults, type RowResult } from './results.ts';
import { rowOf, verdictOf, type RowId } from './rows.ts';
import { SCENARIOS } from './scenarios/all.ts';

const PROFILES = join(RESULTS_DIRECTORY, 'profiles');
const SHOWN = 30;

function progress(line: string): void {
  console.error(`${new Date().toISOString().slice(11, 19)} ${line}`);
}

/** Runs what was asked for. 0 where every scenario came to its figures, 1 otherwise; whether they reach floor and goal is for the reader. */
async function run(options: BenchOptions, signal: AbortSignal): Promise<number> {
  const chosen = options.scenarios.length === 0 ? SCENARIOS : SCENARIOS.filter(({ name }) => options.scenarios.includes(name));
  await using acquired = new AsyncDisposableStack();
  await mkdir(RESULTS_DIRECTORY, { recursive: true });
  progress('starting Postgres');
  const postgres = await startBenchPostgres({ parent: options.directory, explain: options.explain, signal });
  acquired.defer(() => postgres.stop());
  const generator = startLoadGenerator(signal, progress);
  acquired.defer(() => generator.close());
  const profileDir = options.cpuProf ? PROFILES : undefined;
  if (profileDir !== undefined) await rm(profileDir, { recursive: true, force: true });

  const bench = createBench({ options, postgres, generator, signal, progress }, acquired, profileDir);
  const machine = describeMachine(postgres.version);
  const rows: Partial<Record<RowId, RowResult>> = {};
  let failures = 0;
  for (const scenario of chosen) {
    progress(scenario.name);
    let measured: readonly RowMeasurement[];
    try {
      measured = await scenario.run(bench);
    } catch (error) {
      signal.throwIfAborted();
      failures++;
      progress(`${scenario.name} failed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
      continue;
    }
    for (const measurement of measured) {
      const definition = rowOf(measurement.row);
      const value = median(measurement.values);
      rows[measurement.row] = toResult(measurement, value, { options, machine, measuredAt: new Date() });
      progress(
        `${measurement.row}: ${figure(value)} ${definition.unit} (floor ${figure(definition.floor)}, goal ${figure(definition.goal)}): ${verdictOf(definition, value)}`,
      );
    }
  }
  await acquired.disposeAsync();

  const results = { rows };
  if (options.explain) {
    await writeFile(join(RESULTS_DIRECTORY, 'explain.log'), `${postgres.log().join('\n')}\n`);
    progress('plans are in bench/results/explain.log; the figures were not kept, the sampling costs some of them; most time was spent in');
    for (const line of topStatements(postgres.log(), SHOWN)) console.log(line);
  } else if (options.cpuProf) {
    progress('the figures were not kept, a profile costs some of them; most time was spent in');
    for (const line of await topFunctions(PROFILES, SHOWN)) console.log(line);
  } else if (options.sessionOptions !== undefined) {
    progress('the figures were not kept, the sessions were not as the product starts them');
  } else if (!isStatedSize(options)) {
    progress('the figures were not kept, the sizes were not those that the table states');
  } else {
    await writeFile(join(RESULTS_DIRECTORY, 'latest.md'), renderResults(await writeResults(results, new Date())));
  }
  console.log(renderResults(results));
  return failures === 0 ? 0 : 1;
}

async function main(args: readonly string[]): Promise<number> {
  let options: BenchOptions;
  try {
    options = parseOptions(args);
    const unknown = options.scenarios.filter((name) => !SCENARIOS.some((scenario) => scenario.name === name));
    if (unknown.length > 0)
      throw new RangeError(`there is no ${unknown.join(', ')}; there are ${SCENARIOS.map(({ name }) => name).join(', ')}`);
  } catch (error) {
    console.error(error instanceof Error ? error.message : String(error));
    return 2;
  }
  if (options.help) {
    console.log(`${USAGE}\n\nScenarios: ${SCENARIOS.map(({ name }) => name).join(', ')}`);
    return 0;
  }
  const stopping = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, () => stopping.abort(new Error(`Stopped by ${name}.`)));
  try {
    return await run(options, stopping.signal);
  } catch (error) {
    if (!stopping.signal.aborted) throw error;
    progress('stopped; every process that was started has ended');
    return 130;
  }
}

process.exitCode = await main(process.argv.slice(2));
