import { parseArguments, type CliCommand } from './command.ts';

export const serveCommand: CliCommand = {
  name: 'serve',
  summary: 'start the server',
  help: `keyledger serve

Migrates, listens on HOST and PORT, and runs until Ctrl-C or SIGTERM. Without DATABASE_URL it starts its own Postgres in DATA_DIR.
On the very first start it prints an owner's access token. Settings are environment variables; docs/operations.md lists them.`,
  run: async (args, io) => {
    parseArguments(args, {}, { min: 0, max: 0 });
    // Loaded here: no other command needs the server's parts, which take a second.
    const { serve } = await import('../main.ts');
    return serve(io.env, { out: io.out, err: io.err });
  },
};
