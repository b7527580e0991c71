/** How a key was used: requests that were let through or reported, and the newest of them. */
export type KeyUse = {
  /** The key's number. */
  readonly key: number;
  readonly organization: number;
  readonly requests: number;
  readonly position: bigint;
  readonly lastUsedAt: Date;
};

/** Numbers: of some keys, or of an organization whose keys are all of interest. */
export type UseFilter = { readonly keys: readonly number[] } | { readonly organization: number };

export type UseFollower = {
  /** What was used since it was taken out, by key: the follower deletes what it has told. It holds at most one entry a key, however slow the follower is. */
  readonly pending: Map<number, KeyUse>;
  /** Resolves when a key is used, after `ms` (null: never), or when it left. */
  wait(ms: number | null): Promise<void>;
  leave(): void;
};

/** Who is told of which keys. */
export type UseFollowers = {
  enter(filter: UseFilter): UseFollower;
  tell(uses: readonly KeyUse[]): void;
  count(): number;
  /** Lets nobody wait any more. */
  end(): void;
};

type Waiting = { readonly pending: Map<number, KeyUse>; goOn: (() => void) | null };

export function createUseFollowers(): UseFollowers {
  const byKey = new Map<number, Set<Waiting>>();
  const byOrganization = new Map<number, Set<Waiting>>();
  const all = new Set<Waiting>();

  function places(filter: UseFilter): readonly (readonly [Map<number, Set<Waiting>>, number])[] {
    return 'keys' in filter ? [...new Set(filter.keys)].map((key) => [byKey, key]) : [[byOrganization, filter.organization]];
  }

  return {
    enter(filter) {
      const waiting: Waiting = { pending: new Map(), goOn: null };
      all.add(waiting);
      for (const [map, number] of places(filter)) {
        const there = map.get(number);
        if (there === undefined) map.set(number, new Set([waiting]));
        else there.add(waiting);
      }
      return {
        pending: waiting.pending,
        wait(ms) {
          const { promise, resolve } = Promise.withResolvers<void>();
          const timer = ms === null ? undefined : setTimeout(resolve, ms);
          waiting.goOn = () => {
            waiting.goOn = null;
            clearTimeout(timer);
            resolve();
          };
          return promise;
        },
        leave() {
          all.delete(waiting);
          for (const [map, number] of places(filter)) {
            const there = map.get(number);
            there?.delete(waiting);
            if (there?.size === 0) map.delete(number);
          }
          waiting.goOn?.();
        },
      };
    },
    tell(uses) {
      for (const use of uses) {
        for (const there of [byKey.get(use.key), byOrganization.get(use.organization)]) {
          for (const waiting of there ?? []) {
            const before = waiting.pending.get(use.key);
            waiting.pending.set(use.key, before === undefined ? use : { ...use, requests: before.requests + use.requests });
            waiting.goOn?.();
          }
        }
      }
    },
    count: () => all.size,
    end() {
      for (const waiting of all) waiting.goOn?.();
    },
  };
}
