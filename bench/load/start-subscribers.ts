import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';

import type { FromSubscribers, SubscriberPlan, SubscriberReport, ToSubscribers } from './subscriber-plan.ts';

const SUBSCRIBERS = fileURLToPath(new URL('subscribers.ts', import.meta.url));

export type Subscribers = {
  readonly pid: number;
  /** Resolves when every socket is open and follows. */
  open(plan: SubscriberPlan): Promise<void>;
  /** Forgets what was timed so far. */
  reset(): void;
  report(): Promise<SubscriberReport>;
  close(): Promise<void>;
  stop(): Promise<void>;
};

/** Starts the process that holds the sockets, apart from the one that makes the load, so that neither's work delays what the other times. */
export function startSubscribers(signal: AbortSignal): Subscribers {
  const child = fork(SUBSCRIBERS, [], { execArgv: [], stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  const { pid } = child;
  if (pid === undefined) throw new Error('the subscribers did not start');
  const say = (message: ToSubscribers): void => void child.send(message);

  function ask<Kind extends FromSubscribers['kind']>(
    message: ToSubscribers,
    kind: Kind,
  ): Promise<Extract<FromSubscribers, { readonly kind: Kind }>> {
    const { promise, resolve, reject } = Promise.withResolvers<Extract<FromSubscribers, { readonly kind: Kind }>>();
    const onMessage = (answer: FromSubscribers): void => {
      if (answer.kind === 'failed') reject(new Error(`a socket could not be opened: ${answer.message}`));
      else if (answer.kind === kind) resolve(answer as Extract<FromSubscribers, { readonly kind: Kind }>);
    };
    const onExit = (): void => reject(new Error('the subscribers ended in the middle of a run'));
    const onAbort = (): void => reject(signal.reason as Error);
    child.on('message', onMessage).once('exit', onExit);
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    else say(message);
    return promise.finally(() => {
      child.off('message', onMessage).off('exit', onExit);
      signal.removeEventListener('abort', onAbort);
    });
  }

  return {
    pid,
    open: async (plan) => void (await ask({ kind: 'open', plan }, 'opened')),
    reset: () => say({ kind: 'reset' }),
    report: async () => (await ask({ kind: 'report' }, 'report')).report,
    close: async () => void (await ask({ kind: 'close' }, 'closed')),
    stop: async () => void child.kill('SIGKILL'),
  };
}
