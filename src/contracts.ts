import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { lexicographicSortSchema, printSchema } from 'graphql';
import { z } from 'zod';

import { EVENT_SCHEMAS } from './domain/event.ts';
import { buildSchema } from './graphql/schema.ts';
import { openApiDocument } from './http/openapi.ts';

const USAGE = `Usage: node src/contracts.ts [--check] [--directory <path>]

Writes the contracts that are printed from the code: schema.graphql, events.json and openapi.json.

  --check      write nothing; exit 1 and name the files that differ from the code
  --directory  where they are, schema/ unless told`;

/** Relative to this module, which lies one folder below the package's root in `src/` and in `dist/` alike. */
const SCHEMA_DIRECTORY = fileURLToPath(new URL('../schema/', import.meta.url));

/** Prints the contracts, the same text each time, by the name of their file. */
function printContracts(): ReadonlyMap<string, string> {
  return new Map([
    ['schema.graphql', `${printSchema(lexicographicSortSchema(buildSchema()))}\n`],
    ['events.json', jsonFile(eventSchemas())],
    ['openapi.json', jsonFile(openApiDocument())],
  ]);
}

/** One JSON Schema a type of event, of its `data` as it stands in the log. */
function eventSchemas(): unknown {
  const events = Object.entries(EVENT_SCHEMAS).map(([type, schema]) => {
    const { $schema: _dialect, ...rest } = z.toJSONSchema(schema, { io: 'output' });
    return [type, rest] as const;
  });
  return {
    $schema: 'https://json-schema.org/draft/2020-12/schema',
    title: "The data of keyledger's events, by type",
    $defs: Object.fromEntries(events),
  };
}

function jsonFile(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

async function write(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true });
  for (const [name, text] of printContracts()) {
    await writeFile(join(directory, name), text);
    console.log(join(directory, name));
  }
}

/** The names of the files that differ from the code or are missing. */
async function differences(directory: string): Promise<readonly string[]> {
  const different: string[] = [];
  for (const [name, text] of printContracts()) {
    const path = join(directory, name);
    // A checkout under Windows may have other line ends.
    const found = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined;
      throw error;
    });
    if (found?.replaceAll('\r\n', '\n') !== text) different.push(path);
  }
  return different;
}

async function main(): Promise<number> {
  let options;
  try {
    options = parseArgs({ options: { check: { type: 'boolean' }, directory: { type: 'string' }, help: { type: 'boolean' } } }).values;
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : String(error)}\n\n${USAGE}`);
    return 2;
  }
  if (options.help === true) {
    console.log(USAGE);
    return 0;
  }
  const directory = options.directory ?? SCHEMA_DIRECTORY;
  if (options.check !== true) {
    await write(directory);
    return 0;
  }
  const different = await differences(directory);
  for (const path of different) console.error(`${path} differs from the code: run npm run contracts, and commit it with what changed it.`);
  return different.length === 0 ? 0 : 1;
}

process.exitCode = await main();
