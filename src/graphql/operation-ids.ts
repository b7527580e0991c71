/** Takes one message of a socket; resolves when what it asked for has ended. */
type Take = (text: string) => Promise<void>;

/**
 * Lets a client use the id of an operation again as soon as it has completed that one, as graphql-transport-ws allows. The server of graphql-ws does not bear
 * that: an operation that was completed by its client needs some time to end, and then takes the newer one of its id for itself, tells the client that it is
 * complete, and forgets it, so that it can neither be ended nor is counted any more. So what comes for such an id waits for that end, in order.
 */
export function freeIdsInOrder(take: Take): Take {
  const operations = new Map<string, { readonly ended: Promise<void>; completed: boolean }>();

  return async function takeInOrder(text) {
    const { type, id } = headOf(text);
    if (id === undefined) return take(text);
    const known = operations.get(id);
    if (known?.completed === true) {
      await known.ended;
      return takeInOrder(text);
    }
    if (known === undefined && type === 'subscribe') return run(id, text);
    if (known !== undefined && type === 'complete') known.completed = true;
    return take(text);
  };

  async function run(id: string, text: string): Promise<void> {
    const failed: unknown[] = [];
    const ended = take(text)
      .catch((error: unknown) => void failed.push(error))
      .then(() => void operations.delete(id));
    operations.set(id, { ended, completed: false });
    await ended;
    if (failed.length > 0) throw failed[0];
  }
}

/** Only of what can be a message of an operation; everything else is judged where messages are read. */
function headOf(text: string): { readonly type?: string; readonly id?: string } {
  let message: unknown;
  try {
    message = JSON.parse(text);
  } catch {
    return {};
  }
  if (typeof message !== 'object' || message === null || !('type' in message) || !('id' in message)) return {};
  const { type, id } = message;
  return (type === 'subscribe' || type === 'complete') && typeof id === 'string' ? { type, id } : {};
}
