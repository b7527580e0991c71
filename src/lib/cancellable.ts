/**
 * An async iterator whose `return()` takes effect at once. That of a plain async generator queues behind the await in progress, so on a quiet stream its
 * `finally` would never run; here the signal fires first and ends that await.
 *
 * `produce` must pass the signal to everything it awaits. The outer signal, where given, ends it too.
 */
export function cancellable<T>(
  produce: (signal: AbortSignal) => AsyncGenerator<T, void, undefined>,
  outer?: AbortSignal,
): AsyncGenerator<T, void, undefined> {
  const controller = new AbortController();
  const signal = outer === undefined ? controller.signal : AbortSignal.any([controller.signal, outer]);
  const inner = produce(signal);
  let ended = false;

  async function step(take: () => Promise<IteratorResult<T, void>>): Promise<IteratorResult<T, void>> {
    if (ended) return { done: true, value: undefined };
    try {
      const result = await take();
      if (result.done === true) ended = true;
      return result;
    } catch (error) {
      ended = true;
      if (signal.aborted) return { done: true, value: undefined };
      throw error;
    }
  }

  return {
    next: () => step(() => inner.next()),
    async return() {
      ended = true;
      controller.abort();
      // What the abort makes the pending await throw is the cancellation itself.
      await inner.return().catch(() => undefined);
      return { done: true, value: undefined };
    },
    async throw(error) {
      ended = true;
      controller.abort();
      await inner.return().catch(() => undefined);
      throw error;
    },
    [Symbol.asyncIterator]() {
      return this;
    },
    async [Symbol.asyncDispose]() {
      await this.return();
    },
  };
}
