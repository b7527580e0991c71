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

/** Is told of uses, each request once. */
export type TakeUse = (use: KeyUse) => void;

/** Who is told of which keys. */
export type UseFollowers = {
  /** From now on, until the function that it gives is called. */
  enter(filter: UseFilter, take: TakeUse): () => void;
  tell(uses: readonly KeyUse[]): void;
  count(): number;
};

export function createUseFollowers(): UseFollowers {
  const byKey = new Map<number, Set<TakeUse>>();
  const byOrganization = new Map<number, Set<TakeUse>>();
  let count = 0;

  function places(filter: UseFilter): readonly (readonly [Map<number, Set<TakeUse>>, number])[] {
    return 'keys' in filter ? [...new Set(filter.keys)].map((key) => [byKey, key]) : [[byOrganization, filter.organization]];
  }

  return {
    enter(filter, takeUse) {
      const take: TakeUse = (use) => takeUse(use); // one that enters twice is two
      let left = false;
      count++;
      for (const [map, number] of places(filter)) {
        const there = map.get(number);
        if (there === undefined) map.set(number, new Set([take]));
        else there.add(take);
      }
      return () => {
        if (left) return;
        left = true;
        count--;
        for (const [map, number] of places(filter)) {
          const there = map.get(number);
          there?.delete(take);
          if (there?.size === 0) map.delete(number);
        }
      };
    },
    tell(uses) {
      for (const use of uses) {
        byKey.get(use.key)?.forEach((take) => take(use));
        byOrganization.get(use.organization)?.forEach((take) => take(use));
      }
    },
    count: () => count,
  };
}
