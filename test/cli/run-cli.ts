import { spawn, type ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

import { COMPILE_CACHE } from '../support/compile-cache.ts';

const CLI = fileURLToPath(new URL('../../src/cli.ts', import.meta.url));

export type CliResult = { readonly code: number | null; readonly out: string; readonly err: string };

export type RunningCli = {
  readonly child: ChildProcess;
  readonly ended: Promise<CliResult>;
  /** Resolves with the first line of either stream that matches; rejects when the process ends without one. */
  line(pattern: RegExp): Promise<string>;
};

/** Starts the command line as a process of its own, with nothing of this process' settings but what is given. */
export function startCli(args: readonly string[], env: Readonly<Record<string, string>>): RunningCli {
  const { PATH = '', HOME = '' } = process.env;
  const child = spawn(process.execPath, [CLI, ...args], {
    env: { PATH, HOME, ...COMPILE_CACHE, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const lines: string[] = [];
  const waiting = new Set<() => void>();
  const streams = { out: '', err: '' };
  for (const [name, stream] of [
    ['out', child.stdout],
    ['err', child.stderr],
  ] as const) {
    createInterface({ input: stream }).on('line', (line) => {
      streams[name] += `${line}\n`;
      lines.push(line);
      for (const look of waiting) look();
    });
  }
  const ended = new Promise<CliResult>((resolve) => {
    child.once('close', (code) => {
      resolve({ code, ...streams });
    });
  });
  return {
    child,
    ended,
    line: (pattern) =>
      new Promise((resolve, reject) => {
        const look = (): void => {
          const found = lines.find((line) => pattern.test(line));
          if (found === undefined) return;
          waiting.delete(look);
          resolve(found);
        };
        waiting.add(look);
        look();
        void ended.then(({ code, out, err }) =>
          reject(new Error(`it ended with ${String(code)} without a line like ${pattern}: ${out}${err}`)),
        );
      }),
  };
}

export function runCli(args: readonly string[], env: Readonly<Record<string, string>>): Promise<CliResult> {
  return startCli(args, env).ended;
}
