import { fileURLToPath } from 'node:url';

import { startIpcServer } from './ipc-server.ts';
import { NODE_FLAGS, type Subject } from './keyledger-server.ts';

const SERVER = fileURLToPath(new URL('bare-server.ts', import.meta.url));

/** The bare `node:http` server, answering what it is given. */
export function startBare(answer: string, signal: AbortSignal): Promise<Subject> {
  return startIpcServer({ what: 'the bare server', args: [...NODE_FLAGS, SERVER], env: { ANSWER: answer }, startMs: 10_000, signal });
}
