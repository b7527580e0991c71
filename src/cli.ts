#!/usr/bin/env node
import { balanceCommand } from './cli/balance.ts';
import { bootstrapCommand } from './cli/bootstrap.ts';
import { checkCommand } from './cli/check.ts';
import { EXIT, UsageError, type CliCommand, type CliIo } from './cli/command.ts';
import { columns } from './cli/columns.ts';
import { explainFailure } from './cli/explain-failure.ts';
import { importCommand } from './cli/import.ts';
import { migrateCommand } from './cli/migrate.ts';
import { rebuildCommand } from './cli/rebuild.ts';
import { replayCommand } from './cli/replay.ts';
import { serveCommand } from './cli/serve.ts';
import { tokenCommand } from './cli/token.ts';

const COMMANDS: readonly CliCommand[] = [
  serveCommand,
  migrateCommand,
  bootstrapCommand,
  tokenCommand,
  balanceCommand,
  importCommand,
  replayCommand,
  rebuildCommand,
  checkCommand,
];

const HELP = `keyledger COMMAND [OPTIONS]

${columns(COMMANDS.map(({ name, summary }) => [`  ${name}`, summary])).join('\n')}

keyledger COMMAND --help tells more. The database is DATABASE_URL, or the embedded Postgres in DATA_DIR (.keyledger) where that is unset.
Exit codes: 0 done, 1 found something wrong or failed, 2 wrong usage.`;

/** Runs one command line. Answers the exit code. */
async function run([name, ...args]: readonly string[], io: CliIo): Promise<number> {
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    const asked = name !== undefined;
    (asked ? io.out : io.err)(HELP);
    return asked ? EXIT.done : EXIT.usage;
  }
  const command = COMMANDS.find((candidate) => candidate.name === name);
  if (command === undefined) {
    io.err(`There is no command ${JSON.stringify(name)}. keyledger --help lists them.`);
    return EXIT.usage;
  }
  if (args.some((arg) => arg === '--help' || arg === '-h')) {
    io.out(command.help);
    return EXIT.done;
  }
  try {
    return await command.run(args, io);
  } catch (error) {
    if (error instanceof UsageError) {
      io.err(`${error.message} See: keyledger ${name} --help`);
      return EXIT.usage;
    }
    if (io.signal.aborted) {
      io.err('Interrupted.');
      return EXIT.failed;
    }
    io.err(explainFailure(error));
    return EXIT.failed;
  }
}

const interrupted = new AbortController();
const onSignal = (): void => {
  // The second time, at once: whatever the command waits for may never come.
  if (interrupted.signal.aborted) process.exit(EXIT.failed);
  interrupted.abort();
};
// The server has its own way to stop.
if (process.argv[2] !== serveCommand.name) process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
// A reader that has had enough (`| head`) is no fault.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? EXIT.done : EXIT.failed));

process.exitCode = await run(process.argv.slice(2), {
  env: process.env,
  out: (line) => void process.stdout.write(`${line}\n`),
  err: (line) => void process.stderr.write(`${line}\n`),
  interactive: process.stderr.isTTY,
  signal: interrupted.signal,
});
