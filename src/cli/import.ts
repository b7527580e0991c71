import { readFile } from 'node:fs/promises';
import { text } from 'node:stream/consumers';

import { createImportCommands } from '../commands/import-commands.ts';
import { EXIT, parseArguments, type CliCommand, type CliIo } from './command.ts';
import { findOrganization } from './find-organization.ts';
import { importEntries } from './import-entries.ts';
import { openLedger } from './open-ledger.ts';
import { groupDigits } from '../lib/group-digits.ts';
import { createProgressLine } from './progress.ts';
import { parseEntries } from './parse-entries.ts';

export const importCommand: CliCommand = {
  name: 'import',
  summary: 'import keys that another product made, by their hashes',
  help: `keyledger import FILE [--organization ID|NAME] [--json]

Imports keys whose secrets were made elsewhere: clients go on with the secrets that they have. FILE (- for standard input) holds one JSON object a
line, or a JSON array of them; docs/migrating.md says how to get it out of Unkey and better-auth. Each has

  hash          SHA-256 of the key's whole text: 64 hex digits, or base64 or base64url
  name          3 to 50 characters. One that is missing, too short, or taken is completed with the beginning of the hash
  ownerId       the member whose personal key it is; left out: a team key
  and, where wanted, start, last4, enabled, type, category, permissions, expiresAt, profileId, metadata, ipAllowlist, allowedOrigins, quotas, limits
  and rotateEveryDays, as createApiKey takes them

A line at fault is named and holds up no other. A hash that was imported before is left alone: so Ctrl-C stops it at any time, and the same command goes
on where it stopped. No limit on key operations holds here. Exit code 0: all keys are there; 1: some are not.

  --organization ID|NAME   may be left out while there is only one
  --json                   one JSON object a line at fault, and one for the end`,
  run: async (args, io) => {
    const { values, positionals } = parseArguments(
      args,
      { organization: { type: 'string' }, json: { type: 'boolean' } },
      { min: 1, max: 1 },
    );
    const [file = '-'] = positionals;
    const entries = parseEntries(await readInput(file));
    const ledger = await openLedger(io, { create: false });
    const progress = createProgressLine(io);
    try {
      const organizationId = await findOrganization(ledger.database.kysely, values.organization);
      const { importKeys } = createImportCommands({ ...ledger.context, keyOperationsPerHour: null });
      const outcome = await importEntries(ledger.database.kysely, importKeys, {
        organizationId,
        entries,
        signal: io.signal,
        onFault: ({ line, message }) =>
          values.json === true ? io.out(JSON.stringify({ line, message })) : io.err(`line ${line}: ${message}`),
        onRename: ({ line, name }) => (values.json === true ? undefined : io.out(`line ${line}: named ${JSON.stringify(name)}`)),
        onProgress: (done) => progress.show(`${groupDigits(done)} of ${groupDigits(entries.length)} keys`),
      });
      progress.end();
      return summary(outcome, entries.length, io, values.json === true);
    } finally {
      await ledger.close();
    }
  },
};

type Outcome = Awaited<ReturnType<typeof importEntries>>;

function summary(outcome: Outcome, total: number, io: CliIo, json: boolean): number {
  const { imported, already, failed, interrupted, stopped } = outcome;
  if (json) io.out(JSON.stringify({ imported, already, failed, total, interrupted, stopped }));
  else {
    if (stopped !== null) io.err(`Stopped: ${stopped}.`);
    if (interrupted) io.err('Interrupted. Run the same command again: it goes on where it stopped.');
    io.out(
      `${groupDigits(imported)} imported, ${groupDigits(already)} were there already, ${groupDigits(failed)} at fault, of ${groupDigits(total)}.`,
    );
  }
  return failed === 0 && !interrupted && stopped === null ? EXIT.done : EXIT.failed;
}

async function readInput(file: string): Promise<string> {
  if (file === '-') return text(process.stdin);
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    throw new Error(`${JSON.stringify(file)} can not be read: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}
