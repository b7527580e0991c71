import type { DocumentNode, ExecutionResult } from 'graphql';

import type { Actor } from '../domain/actor.ts';
import { sightOf } from './key-reading.ts';

/** No longer than this: what is resolved besides the update itself is read as it stands now. */
const SHARED_MS = 1000;

/** An update that is the same for all who are given one with the same `shareBy`, such as a row that was read once for them all. */
export type SharedUpdate = { readonly shareBy: object; readonly position: bigint };

type Result = ExecutionResult | Promise<ExecutionResult>;
type Shared = { result: Result; readonly untilMs: number };

/** Who asks for what: two whose keys are equal get equal results for the same update. */
export type ResultKey = string;

/**
 * Executes an operation once for all subscribers to whom an event is told alike. An alert of an organization can concern a thousand consoles, which ask with the same
 * document; each is still asked for its credentials, and only those share a result that may do and see the same.
 */
export type ShareResults = {
  /** Of a subscription, for as long as it lasts. */
  keyOf(operation: {
    readonly document: DocumentNode;
    readonly operationName: string | null | undefined;
    readonly variables: unknown;
    readonly actor: Actor | null;
  }): ResultKey;
  execute(update: unknown, key: ResultKey, run: () => Result): Result;
};

export function createShareResults(): ShareResults {
  const documents = new WeakMap<DocumentNode, number>();
  let nextDocument = 1;
  const results = new WeakMap<object, Map<string, Shared>>();

  function numberOf(document: DocumentNode): number {
    const known = documents.get(document);
    if (known !== undefined) return known;
    documents.set(document, nextDocument);
    return nextDocument++;
  }

  return {
    keyOf: ({ document, operationName, variables, actor }) =>
      JSON.stringify([numberOf(document), operationName ?? null, variables ?? null, actor === null ? null : viewpointOf(actor)]),
    execute(update, key, run) {
      if (!isShared(update)) return run();
      const { shareBy, position } = update;
      const known = results.get(shareBy) ?? new Map<string, Shared>();
      results.set(shareBy, known);
      const name = `${position}/${key}`;
      const nowMs = performance.now();
      const found = known.get(name);
      if (found !== undefined && found.untilMs > nowMs) return found.result;
      const result = run();
      const shared: Shared = { result, untilMs: nowMs + SHARED_MS };
      known.set(name, shared);
      // A failure is told to those who asked with it, and not to who comes later.
      Promise.resolve(result).then(
        (settled) => {
          shared.result = settled;
          if (settled.errors !== undefined) known.delete(name);
        },
        () => known.delete(name),
      );
      return result;
    },
  };
}

/** The same for all callers who may do and see the same: permissions decide on fields, and sight on keys and what concerns them. */
function viewpointOf(actor: Actor): readonly unknown[] {
  return [actor.kind, actor.role, sightOf(actor), [...actor.permissions].toSorted()];
}

function isShared(update: unknown): update is SharedUpdate {
  return typeof update === 'object' && update !== null && 'shareBy' in update;
}
