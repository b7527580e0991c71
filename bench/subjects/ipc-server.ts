import { startChild, waitFor, type ChildOptions } from '../processes/child.ts';
import type { Subject } from './keyledger-server.ts';

/** A server that tells over IPC where it listens, and perhaps more. */
export async function startIpcServer<Told extends { readonly port: number }>(
  options: Omit<ChildOptions, 'ipc'> & { readonly what: string; readonly startMs: number; readonly signal: AbortSignal },
): Promise<Subject & { readonly told: Told }> {
  const child = startChild({ ...options, ipc: true });
  let told: Told | undefined;
  // The child is ours and says one thing.
  child.process.once('message', (message) => (told = message as Told));
  try {
    const heard = await waitFor(child, options.what, options.startMs, options.signal, () => told);
    return { pid: child.pid, port: heard.port, told: heard, stop: () => child.stop() };
  } catch (error) {
    await child.stop();
    throw error;
  }
}
