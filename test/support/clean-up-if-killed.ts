import { spawn } from 'node:child_process';
import { Socket } from 'node:net';
import { fileURLToPath } from 'node:url';

const SCRIPT = fileURLToPath(new URL('./clean-up-after-run.ts', import.meta.url));

/** `container`: its id. `cluster`: the data directory of an embedded Postgres. */
export type LeftBehind = { readonly kind: 'container' | 'cluster'; readonly target: string };

/**
 * Watches over what must not outlive this process: a process of its own removes it as soon as this one has ended, however it ended; Vitest leaves no time
 * for a teardown on SIGINT or SIGTERM, and kill -9 leaves none to anybody. Call the answer once it was removed in the orderly way.
 */
export function cleanUpIfKilled({ kind, target }: LeftBehind): () => void {
  // A session of its own, so that an interrupt of the terminal does not reach it.
  const watcher = spawn(process.execPath, [SCRIPT, kind, target], { detached: true, stdio: ['pipe', 'ignore', 'ignore'] });
  watcher.on('error', (error) => console.error(`nobody will clean up after this run if it is killed: ${error.message}`));
  watcher.stdin.on('error', () => undefined);
  watcher.unref();
  // A pipe is a socket to Node, though its type does not say so; open, it would keep the run from ending.
  if (watcher.stdin instanceof Socket) watcher.stdin.unref();
  return () => void watcher.stdin.end('done');
}
