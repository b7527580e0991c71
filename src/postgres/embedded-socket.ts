import { readdir, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';

/**
 * The Unix socket of the embedded Postgres, in its cluster's directory, which only its account may enter. A statement's way by it costs less than over loopback, which there is in any case: some
 * file systems and profiles of containers allow no socket.
 */
const NAME = '.s.PGSQL.';
/** What a socket's path has room for on macOS; on Linux it is 107. */
const LONGEST_PATH = 103;

/** The setting is a list, in which names of other characters would have to be quoted. */
export function mayHoldSocket(directory: string): boolean {
  return process.platform !== 'win32' && directory.length <= LONGEST_PATH - `/${NAME}65535`.length && /^[\w./-]+$/.test(directory);
}

/** Whether a start failed for want of a socket, by what Postgres said. */
export function isSocketFailure(output: string): boolean {
  return output.includes('Unix') || output.includes(NAME);
}

/** Whether this process gets through it. */
export function canConnect(directory: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(join(directory, `${NAME}${port}`));
    const tell = (answer: boolean) => (): void => {
      socket.destroy();
      resolve(answer);
    };
    socket.once('connect', tell(true)).once('error', tell(false));
  });
}

/** Removes those of servers that were killed: each had a port of its own. Only where none runs. */
export async function removeSockets(directory: string): Promise<void> {
  for (const name of await readdir(directory)) if (name.startsWith(NAME)) await rm(join(directory, name), { force: true });
}
