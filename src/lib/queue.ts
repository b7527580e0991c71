/** First in, first out. */
export type Queue<Item> = {
  push(item: Item): void;
  /** Takes the first; undefined where it is empty. */
  shift(): Item | undefined;
  /** The one with so many before it, without taking it. */
  at(index: number): Item | undefined;
};

/**
 * A ring that grows and never shrinks: an array that is filled and emptied over and over gets new memory each time, and of a queue that lives long that memory outlives the young
 * generation.
 */
export function createQueue<Item extends object>(): Queue<Item> {
  let ring: (Item | undefined)[] = [undefined, undefined, undefined, undefined];
  let first = 0;
  let count = 0;
  const place = (index: number): number => (first + index) & (ring.length - 1);
  const at = (index: number): Item | undefined => (index < count ? ring[place(index)] : undefined);
  return {
    at,
    push(item) {
      if (count === ring.length) {
        const larger = Array.from({ length: 2 * count }, (_, index) => at(index));
        ring = larger;
        first = 0;
      }
      ring[place(count++)] = item;
    },
    shift() {
      const item = at(0);
      if (item === undefined) return undefined;
      ring[first] = undefined;
      first = place(1);
      count--;
      return item;
    },
  };
}
