import { parseArgs, type ParseArgsConfig } from 'node:util';

/** What a command is given of its process. */
export type CliIo = {
  readonly env: NodeJS.ProcessEnv;
  /** Standard output: the answer. */
  readonly out: (line: string) => void;
  /** Standard error: progress, and what went wrong. */
  readonly err: (line: string) => void;
  /** Where progress may be written over the line before. */
  readonly interactive: boolean;
  /** Ctrl-C or SIGTERM. */
  readonly signal: AbortSignal;
};

/** Exit codes: done; found something wrong, or failed; wrong usage. */
export const EXIT = { done: 0, failed: 1, usage: 2 } as const;

export type CliCommand = {
  readonly name: string;
  /** Half a line, for the list of commands. */
  readonly summary: string;
  readonly help: string;
  /** Answers the exit code. Throws {@link UsageError} for arguments that it can't understand, and anything else where it failed. */
  readonly run: (args: readonly string[], io: CliIo) => Promise<number>;
};

/** The arguments are wrong; exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

type Options = NonNullable<ParseArgsConfig['options']>;

/** Parses a command's arguments strictly, with between `min` and `max` positional ones. */
export function parseArguments<const Given extends Options>(
  args: readonly string[],
  options: Given,
  positionals: { readonly min: number; readonly max: number },
) {
  const parsed = parseStrictly(args, options);
  const count = parsed.positionals.length;
  if (count > positionals.max) throw new UsageError(`Unexpected argument ${JSON.stringify(parsed.positionals[positionals.max])}.`);
  if (count < positionals.min)
    throw new UsageError(`${positionals.min - count} more ${positionals.min - count === 1 ? 'argument is' : 'arguments are'} needed.`);
  return parsed;
}

function parseStrictly<const Given extends Options>(args: readonly string[], options: Given) {
  try {
    return parseArgs({ args: [...args], options, allowPositionals: true, strict: true });
  } catch (error) {
    if (error instanceof TypeError && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS'))
      throw new UsageError(`${error.message.split('. ')[0] ?? ''}.`);
    throw error;
  }
}
