import { explainingFailure } from '../postgres/connection-failure.ts';
import { migrate } from '../postgres/migrate.ts';
import { EXIT, parseArguments, type CliCommand } from './command.ts';
import { connect } from './open-ledger.ts';

export const migrateCommand: CliCommand = {
  name: 'migrate',
  summary: "bring the database to this version's schema",
  help: `keyledger migrate

Applies the migrations that are missing, each in a transaction of its own. Servers that run meanwhile go on. Needs a login that owns the tables:
MIGRATION_DATABASE_URL, or DATABASE_URL where that is unset.`,
  run: async (args, io) => {
    parseArguments(args, {}, { min: 0, max: 0 });
    const { ownerUrl, stop } = await connect(io, true);
    try {
      const { applied } = await explainingFailure(ownerUrl, () => migrate({ ownerUrl, onProgress: io.out }));
      io.out(applied.length === 0 ? 'Nothing to do: the database is up to date.' : `Done: ${applied.length} applied.`);
      return EXIT.done;
    } finally {
      await stop();
    }
  },
};
