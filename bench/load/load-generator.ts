import { execFileSync, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';

import type { FromGenerator, LoadPlan, LoadResult } from './plan.ts';

const GENERATOR = fileURLToPath(new URL('generator.ts', import.meta.url));

export type LoadGenerator = {
  readonly pid: number;
  /** One plan at a time. `onPhase` hears when the measured time begins and ends. Rejects where the generator's process ends or the signal fires. */
  run(plan: LoadPlan, onPhase: (phase: 'measuring' | 'measured') => void): Promise<LoadResult>;
  close(): void;
};

/**
 * Starts the process that makes the load, so that its work is never on the event loop of what is measured. On Linux it takes no core from anybody: as soon as an answer is written the scheduler
 * would give it the server's own, thousands of times a second, which no client on a machine of its own does. Where requests come at a given rate it does, since they have to be sent in time.
 * `onProgress` hears where that can't be had.
 */
export function startLoadGenerator(signal: AbortSignal, onProgress: (line: string) => void): LoadGenerator {
  const child = fork(GENERATOR, [], { execArgv: [], stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  const { pid } = child;
  if (pid === undefined) throw new Error('the load generator did not start');
  /** SCHED_BATCH and SCHED_OTHER. */
  function schedule(policy: '--batch' | '--other'): void {
    try {
      execFileSync('chrt', ['--all-tasks', policy, '--pid', '0', String(pid)], { stdio: 'ignore' });
    } catch {
      onProgress(`the load generator's scheduling stays as it is: chrt ${policy} did not work here`);
    }
  }
  return {
    pid,
    run(plan, onPhase) {
      const { promise, resolve, reject } = Promise.withResolvers<LoadResult>();
      const onMessage = (message: FromGenerator): void => {
        if (message.kind === 'done') resolve(message.result);
        else onPhase(message.kind);
      };
      const onExit = (): void => reject(new Error('the load generator ended in the middle of a run'));
      const onAbort = (): void => reject(signal.reason);
      child.on('message', onMessage).once('exit', onExit);
      signal.addEventListener('abort', onAbort, { once: true });
      if (signal.aborted) onAbort();
      else {
        schedule(plan.perSecond === undefined ? '--batch' : '--other');
        child.send(plan);
      }
      return promise.finally(() => {
        child.off('message', onMessage).off('exit', onExit);
        signal.removeEventListener('abort', onAbort);
      });
    },
    close: () => void child.kill('SIGKILL'),
  };
}
