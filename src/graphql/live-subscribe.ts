import {
  createSourceEventStream,
  executeSubscriptionEvent,
  GraphQLError,
  validateSubscriptionArgs,
  type ExecutionArgs,
  type ExecutionResult,
} from 'graphql';
import type { Logger } from 'pino';

import type { PolledIterable } from '../lib/polled.ts';
import { takeTurns } from '../lib/take-turns.ts';
import { toClientError, unauthenticated } from './client-error.ts';
import { createContext, type GraphqlContext, type Session } from './context.ts';
import { directUpdate } from './direct-update.ts';
import { resultsOf, type Results } from './results-of.ts';
import type { Sessions } from './sessions.ts';
import { createShareResults } from './share-results.ts';

/** Each takes some 50 to 100 µs, and a verification some rounds. */
const DELIVERY_ROUNDS = { atLeast: 4, atMostMs: 2 } as const;

export type Subscribe = (args: ExecutionArgs) => Promise<AsyncGenerator<ExecutionResult, void, undefined> | ExecutionResult>;

/**
 * graphql-js' `subscribe`, with what long streams need: each event is resolved in a context of its own, so that neither loaders nor scopes answer from an
 * earlier event; a failure is the last result and not a broken connection; `return()` takes effect at once; the stream ends with the caller's session.
 * `open` counts the streams.
 */
export function createSubscribe(sessions: Sessions, logger: Logger): { readonly subscribe: Subscribe; readonly open: () => number } {
  let open = 0;
  const takeTurn = takeTurns(DELIVERY_ROUNDS);
  const share = createShareResults();
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
      const updates = source as PolledIterable<object>; // all of our subscriptions' are
      open++;
      const { document, operationName, variableValues: variables } = args;
      const key = share.keyOf({ document, operationName, variables, actor: caller.actor });
      const results = resultsOf(updates, {
        direct: directUpdate(args.schema, document, operationName, caller.limits),
        context,
        takeTurn,
        execute: (update) =>
          share.execute(update, key, () =>
            executeSubscriptionEvent({ ...validated, rootValue: update, contextValue: createContext(context) }),
          ),
      });
      return deliver(results, { session, disconnected: caller.disconnected, logger }, () => {
        open--;
        opened?.release();
      });
    } catch (error) {
      opened?.release();
      throw error;
    }
  };
  return { subscribe, open: () => open };
}

type Delivery = { readonly session: Session | null; readonly disconnected: AbortSignal | undefined; readonly logger: Logger };

/** The results of a subscription, for a transport that asks for them one after the other. `onEnd` is called once, whoever ends it: the source, its reader, or a disconnection. */
function deliver(
  results: Results,
  { session, disconnected, logger }: Delivery,
  onEnd: () => void,
): AsyncGenerator<ExecutionResult, void, undefined> {
  const DONE = { done: true, value: undefined } as const;
  let ended = false;

  function end(): void {
    if (ended) return;
    ended = true;
    disconnected?.removeEventListener('abort', end);
    onEnd();
    results.end();
  }

  function last(...errors: readonly GraphQLError[]): IteratorResult<ExecutionResult, void> {
    end();
    return { done: false, value: { errors } };
  }

  async function next(): Promise<IteratorResult<ExecutionResult, void>> {
    if (ended) return DONE;
    try {
      const result = await results.next();
      if (ended) return DONE;
      if (result === null) {
        const reason: unknown = session?.signal.reason;
        if (session?.signal.aborted === true && reason instanceof GraphQLError) return last(reason);
        end();
        return DONE;
      }
      const value =
        result.errors === undefined ? result : { ...result, errors: result.errors.map((error) => toClientError(error, logger)) };
      return { done: false, value };
    } catch (error) {
      if (ended) return DONE;
      return last(toClientError(error, logger));
    }
  }

  if (disconnected?.aborted === true) end();
  else disconnected?.addEventListener('abort', end, { once: true });
  return {
    next,
    async return() {
      end();
      return DONE;
    },
    async throw(error) {
      end();
      throw error;
    },
    [Symbol.asyncIterator]() {
      return this;
    },
    async [Symbol.asyncDispose]() {
      end();
    },
  };
}

function failed(opened: Session | null, errors: readonly GraphQLError[], logger: Logger): ExecutionResult {
  opened?.release();
  return { errors: errors.map((error) => toClientError(error, logger)) };
}

function withDisconnection(session: Session | null, disconnected: AbortSignal | undefined): Session | null {
  if (session === null || disconnected === undefined) return session;
  return { ...session, signal: AbortSignal.any([session.signal, disconnected]) };
}
