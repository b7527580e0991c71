import type { ExecutionResult } from 'graphql';
import { describe, expect, it } from 'vitest';

import type { GraphqlContext } from '../../src/graphql/context.ts';
import { resultsOf, type Resolving } from '../../src/graphql/results-of.ts';

type Update = { readonly value: number };
const settle = () => new Promise((resolve) => setTimeout(resolve, 5));
const resultOf = (update: unknown): ExecutionResult => ({ data: { value: (update as Update).value } });
const numbers = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => ({ value: from + index }));

/** Results of updates that are given to it, and a transport that takes them while it is free. */
function controlled(options: Partial<Resolving> = {}) {
  const waiting: Update[] = [];
  const pushed: unknown[] = [];
  const state = { free: true, turns: 0, ended: false, failure: null as Error | null };
  let goOn: (() => void) | null = null;
  const results = resultsOf(
    {
      poll(again) {
        if (state.failure !== null) throw state.failure;
        if (state.ended) return undefined;
        const update = waiting.shift();
        if (update === undefined) goOn = again;
        return update ?? null;
      },
      end: () => void (state.ended = true),
    },
    {
      direct: resultOf,
      execute: async (update) => resultOf(update),
      takeTurn: () => void state.turns++,
      context: {
        push(result: ExecutionResult) {
          if (state.free) pushed.push(result.data?.['value']);
          return state.free;
        },
      } as GraphqlContext,
      ...options,
    },
  );
  const wake = (): void => {
    const again = goOn;
    goOn = null;
    again?.();
  };
  const give = (updates: readonly Update[]): void => {
    waiting.push(...updates);
    wake();
  };
  return { nextResult: () => results.next(), end: () => results.end(), give, wake, pushed, state };
}

describe('results', () => {
  it('are pushed while the reader waits, and the reader goes on waiting', async () => {
    const { nextResult, give, pushed } = controlled();
    let got: unknown = 'nothing';
    void nextResult().then((result) => (got = result));
    give(numbers(1, 3));
    give(numbers(4, 4));
    await settle();
    expect(pushed).toEqual([1, 2, 3, 4]);
    expect(got).toBe('nothing');
  });

  it('are given to the reader where the transport is behind, and nothing is pushed before the reader comes back', async () => {
    const { nextResult, give, pushed, state } = controlled();
    const first = nextResult();
    give(numbers(1, 2));
    state.free = false;
    give(numbers(3, 5));
    expect(await first).toEqual(resultOf({ value: 3 }));
    state.free = true;
    give(numbers(6, 6));
    await settle();
    expect(pushed).toEqual([1, 2]);
    void nextResult();
    await settle();
    expect(pushed).toEqual([1, 2, 4, 5, 6]);
  });

  it('keep their order where some take a while', async () => {
    const { nextResult, give, pushed } = controlled({
      direct: null,
      execute: async (update) => {
        if ((update as Update).value % 2 === 1) await settle();
        return resultOf(update);
      },
    });
    void nextResult();
    give(numbers(1, 4));
    await settle();
    give(numbers(5, 6));
    await expect.poll(() => pushed).toEqual([1, 2, 3, 4, 5, 6]);
  });

  it('of a long run let others have their turn', () => {
    const { nextResult, give, pushed, state } = controlled();
    void nextResult();
    const before = state.turns;
    give(numbers(1, 100));
    expect(pushed).toHaveLength(100);
    expect(state.turns - before).toBeGreaterThan(5);
  });

  it("with errors are the reader's, as are the end and a failure", async () => {
    const failed: ExecutionResult = { errors: [] };
    const { nextResult, give, wake, pushed, state } = controlled({ direct: () => null, execute: () => failed });
    const first = nextResult();
    give(numbers(1, 1));
    expect(await first).toBe(failed);
    expect(pushed).toEqual([]);
    const last = nextResult();
    state.ended = true;
    wake();
    expect(await last).toBeNull();
    state.failure = new Error('gone');
    await expect(nextResult()).rejects.toThrow('gone');
  });

  it("are all the reader's where the transport asks for each", async () => {
    const { nextResult, give } = controlled({ context: { push: null } as GraphqlContext });
    const first = nextResult();
    give(numbers(1, 2));
    expect(await first).toEqual(resultOf({ value: 1 }));
    expect(await nextResult()).toEqual(resultOf({ value: 2 }));
  });

  it('that are resolved one after the other take a turn each', async () => {
    const { nextResult, give, pushed, state } = controlled({ direct: null });
    void nextResult();
    give(numbers(1, 40));
    await settle();
    expect(pushed).toEqual(numbers(1, 40).map(({ value }) => value));
    expect(state.turns).toBeGreaterThanOrEqual(40);
  });

  it('that were being resolved when it was ended are not pushed', async () => {
    const resolved = Promise.withResolvers<ExecutionResult>();
    const { nextResult, end, give, pushed } = controlled({ direct: null, execute: () => resolved.promise });
    void nextResult();
    give(numbers(1, 1));
    end();
    resolved.resolve({ data: { value: 1 } });
    await settle();
    expect(pushed).toEqual([]);
  });
});
