/** Does a read once for all who ask for the same at once, and gives each its answer. */
export type SharedReads<Answer> = (key: string, read: () => Promise<Answer>) => Promise<Answer>;

/**
 * A thousand readers that are woken by one event ask the same question in the same moment. Nothing is kept beyond the answer: who asks later reads anew, and
 * nobody gets an answer that is older than the first of those who asked with it.
 */
export function shareReads<Answer>(): SharedReads<Answer> {
  const underWay = new Map<string, Promise<Answer>>();
  return (key, read) => {
    const known = underWay.get(key);
    if (known !== undefined) return known;
    const reading = read().finally(() => underWay.delete(key));
    underWay.set(key, reading);
    return reading;
  };
}
