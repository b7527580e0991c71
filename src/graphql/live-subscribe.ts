import {
  createSourceEventStream,
  executeSubscriptionEvent,
  GraphQLError,
  validateSubscriptionArgs,
  type ExecutionArgs,
  type ExecutionResult,
} from 'graphql';
import type { Logger } from 'pino';

import { cancellable } from '../lib/cancellable.ts';
import { takeTurns } from '../lib/take-turns.ts';
import { toClientError, unauthenticated } from './client-error.ts';
import { createContext, type GraphqlContext, type Session } from './context.ts';
import type { Sessions } from './sessions.ts';

/** Each takes some 50 µs: so many together hold up a verification by a few milliseconds at most. */
const DELIVERIES_A_ROUND = 50;

export type Subscribe = (args: ExecutionArgs) => Promise<AsyncGenerator<ExecutionResult, void, undefined> | ExecutionResult>;

/**
 * graphql-js' `subscribe`, with what long streams need: each event is resolved in a context of its own, so that neither loaders nor scopes answer from an
 * earlier event; a failure is the last result and not a broken connection; `return()` takes effect at once; the stream ends with the caller's session.
 * `open` counts the streams.
 */
export function createSubscribe(sessions: Sessions, logger: Logger): { readonly subscribe: Subscribe; readonly open: () => number } {
  let open = 0;
  const takeTurn = takeTurns(DELIVERIES_A_ROUND);
  const subscribe: Subscribe = async (args) => {
    const caller = args.contextValue as GraphqlContext; // made by createContext on either transport
    const opened = caller.session === null && caller.actor !== null ? await sessions.open(caller.actor, caller.authorization) : null;
    if (caller.session === null && caller.actor !== null && opened === null)
      return { errors: [unauthenticated('These credentials no longer hold.')] };
    const session = caller.session ?? opened;
    try {
      const context = createContext({ ...caller, session: withDisconnection(session, caller.disconnected) });
      const validated = validateSubscriptionArgs({ ...args, contextValue: context });
      if (!('schema' in validated)) return failed(opened, validated, logger);
      const source = await createSourceEventStream(validated);
      if (!(Symbol.asyncIterator in source)) return failed(opened, source.errors ?? [], logger);
      const updates = source[Symbol.asyncIterator]() as AsyncGenerator<unknown, void, undefined>;
      return cancellable((signal) => deliver(updates, signal), caller.disconnected);

      async function* deliver(
        iterator: AsyncGenerator<unknown, void, undefined>,
        signal: AbortSignal,
      ): AsyncGenerator<ExecutionResult, void, undefined> {
        const stop = (): void => void iterator.return();
        signal.addEventListener('abort', stop, { once: true });
        open++;
        try {
          for (;;) {
            const update = await iterator.next();
            if (update.done === true) break;
            if (!('schema' in validated)) return;
            const turn = takeTurn();
            if (turn !== undefined) await turn;
            if (signal.aborted) break;
            const result = await executeSubscriptionEvent({ ...validated, rootValue: update.value, contextValue: createContext(context) });
            yield result.errors === undefined ? result : { ...result, errors: result.errors.map((error) => toClientError(error, logger)) };
          }
          const reason: unknown = session?.signal.reason;
          if (session?.signal.aborted === true && reason instanceof GraphQLError) yield { errors: [reason] };
        } catch (error) {
          yield { errors: [toClientError(error, logger)] };
        } finally {
          open--;
          signal.removeEventListener('abort', stop);
          opened?.release();
          await iterator.return();
        }
      }
    } catch (error) {
      opened?.release();
      throw error;
    }
  };
  return { subscribe, open: () => open };
}

function failed(opened: Session | null, errors: readonly GraphQLError[], logger: Logger): ExecutionResult {
  opened?.release();
  return { errors: errors.map((error) => toClientError(error, logger)) };
}

function withDisconnection(session: Session | null, disconnected: AbortSignal | undefined): Session | null {
  if (session === null || disconnected === undefined) return session;
  return { ...session, signal: AbortSignal.any([session.signal, disconnected]) };
}
