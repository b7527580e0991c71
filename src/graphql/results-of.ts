import type { ExecutionResult } from 'graphql';

import type { Polled } from '../lib/polled.ts';
import type { TakeTurn } from '../lib/take-turns.ts';
import type { GraphqlContext } from './context.ts';
import type { DirectUpdate } from './direct-update.ts';

/** Then others have their turn. */
const TOLD_AT_ONCE = 16;

export type Resolving = {
  readonly direct: DirectUpdate | null;
  readonly context: GraphqlContext;
  readonly takeTurn: TakeTurn;
  /** Resolves an update in a context of its own. */
  readonly execute: (update: unknown) => ExecutionResult | Promise<ExecutionResult>;
};

export type Results = {
  /** Null at the end. */
  next(): Promise<ExecutionResult | null>;
  /** Ends the source too. What is being resolved then is not pushed any more. */
  end(): void;
};

/**
 * The results of updates. Where the transport takes results without being asked, they are pushed while the reader waits for its next one, and the reader goes on waiting: neither its loop nor the promises
 * between it and the source are woken. A transport that has not yet sent what it was given says so, and then the reader gets the result and takes its time with it; so it does with errors.
 */
export function resultsOf(updates: Polled<object>, { direct: directly, context, takeTurn, execute }: Resolving): Results {
  let direct = directly;
  let ended = false;
  function resolved(update: object): ExecutionResult | Promise<ExecutionResult> {
    const result = direct?.(update, context) ?? null;
    if (result !== null) return result;
    direct = null; // once not, never again
    return execute(update);
  }
  const next = (): Promise<ExecutionResult | null> =>
    new Promise((resolve, reject) => {
      /** Whether it was pushed; if not, it is the reader's next result. */
      function push(result: ExecutionResult): boolean {
        if (!ended && result.errors === undefined && context.push?.(result) === true) return true;
        resolve(result);
        return false;
      }
      function tell(): void {
        try {
          for (let told = 0; told < TOLD_AT_ONCE; told++) {
            const update = updates.poll(wake);
            if (update === null) return;
            if (update === undefined) return resolve(null);
            const result = resolved(update);
            if (result instanceof Promise) return void result.then((settled) => push(settled) && wake()).catch(reject);
            if (!push(result)) return;
          }
          wake();
        } catch (error) {
          reject(error);
        }
      }
      function wake(): void {
        const turn = takeTurn();
        if (turn === undefined) tell();
        else void turn.then(tell);
      }
      wake();
    });
  return {
    next,
    end() {
      ended = true;
      updates.end();
    },
  };
}
