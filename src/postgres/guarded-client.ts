import pg from 'pg';

import { DescribedQuery } from './described-query.ts';
import { asPrepared } from './prepared.ts';

/** Thrown in place of an answer that must not be believed: the connection was in another transaction state than its user thought. */
export class TransactionStateError extends Error {
  override readonly name = 'TransactionStateError';
}

type TransactionStatus = ReturnType<pg.Client['getTransactionStatus']>;
type Callback = (error: Error | null | undefined, result?: pg.QueryResult) => void;
type PlainQuery = (config: string | pg.QueryConfig | pg.Submittable, values?: unknown, callback?: Callback) => void;

/**
 * A client that gives itself up as soon as nobody can know any more what its backend is doing.
 *
 * After a time-out on this side the backend still runs the statement. Handed to the next borrower, a connection whose `BEGIN` timed out
 * swallows that borrower's acknowledged write: it happens inside the stray transaction and goes when that one does. Therefore
 * - a query that fails without the server's own verdict closes the connection (see {@link leavesConnectionUsable});
 * - `COMMIT` counts only when it was one and left the connection idle;
 * - a statement outside a transaction counts only when it left the connection idle.
 * With `pipeline: true` it takes statements that stand alone, no BEGIN: the state before is read when a query is handed over.
 */
export class GuardedClient extends pg.Client {
  /** Why this client must not be used again. */
  distrusted: Error | undefined;

  constructor(config?: string | pg.ClientConfig) {
    super(config);
    // Without a listener an `error` event ends the process. The pool has one only while a client is idle.
    this.on('error', (error: Error) => {
      this.distrusted ??= error;
    });
    const plainQuery = this.query.bind(this) as PlainQuery;
    // Typed at the edge: node-postgres' nine overloads come down to (config, values?, callback?).
    this.query = ((config: string | pg.QueryConfig | pg.Submittable, values?: unknown, callback?: Callback) => {
      if (typeof config === 'object' && 'submit' in config) {
        throw new Error('A guarded client takes text or a query config: it cannot see how a cursor or a stream ends.');
      }
      const given = typeof values === 'function' ? undefined : values;
      const answer = typeof values === 'function' ? (values as Callback) : callback;
      const sent = (typeof config === 'string' ? asPrepared(config, given) : undefined) ?? config;
      const parameters = sent === config ? given : undefined;
      const send = (callback: Callback): void => {
        if (parameters === undefined && isPrepared(sent)) plainQuery(new DescribedQuery(sent, callback));
        else plainQuery(sent, parameters, callback);
      };
      if (answer !== undefined) return send(this.#guard(config, answer));
      return new Promise<pg.QueryResult | undefined>((resolve, reject) => {
        send(
          this.#guard(config, (error, result) => {
            if (!error) return resolve(result);
            // So that the stack leads to the caller and not to the socket's reader.
            Error.captureStackTrace(error);
            reject(error);
          }),
        );
      });
    }) as pg.Client['query'];
  }

  #guard(config: string | pg.QueryConfig, answer: Callback): Callback {
    const text = typeof config === 'string' ? config : config.text;
    const before = this.getTransactionStatus();
    return (error, result) => {
      if (error) {
        if (!leavesConnectionUsable(error)) this.#distrust(error);
        return answer(error);
      }
      const doubt = this.#doubt(text, before, result);
      if (doubt === undefined) return answer(error, result);
      const refusal = new TransactionStateError(doubt);
      if (this.getTransactionStatus() !== 'I') this.#distrust(refusal);
      answer(refusal);
    };
  }

  #doubt(text: string, before: TransactionStatus, result: pg.QueryResult | undefined): string | undefined {
    const after = this.getTransactionStatus();
    if (/^\s*(?:commit|end)\b/i.test(text)) {
      if (after !== 'I') return 'COMMIT did not end the transaction; whether it holds is unknown.';
      if (before === 'I') return 'COMMIT was sent on a connection that had no transaction; what it was to cover is not one unit.';
      return result?.command === 'ROLLBACK'
        ? 'COMMIT was answered by ROLLBACK: an earlier statement of the transaction had failed.'
        : undefined;
    }
    // Text that begins with BEGIN and goes on after a semicolon may end anywhere.
    if (/^\s*(?:begin|start\s+transaction)\b/i.test(text)) {
      return after === 'T' || /;\s*\S/.test(text) ? undefined : 'BEGIN did not begin a transaction.';
    }
    if (before === 'I' && after !== 'I') return 'A statement meant to stand alone ran inside a transaction that nobody began here.';
    return undefined;
  }

  #distrust(error: Error): void {
    this.distrusted ??= error;
    // At once, not when it comes back to the pool: what the borrower still sends is refused, and the pool sees a client that is ending.
    void this.end();
  }
}

/** With a name, a text and values alone. */
function isPrepared(sent: string | pg.QueryConfig): sent is pg.QueryConfig & { readonly name: string } {
  return typeof sent === 'object' && sent.name !== undefined && !('rowMode' in sent || 'queryMode' in sent || 'rows' in sent);
}

/**
 * Whether after this failure the connection is in a known state: only when the server itself said what went wrong, and did not say that the
 * session is over. SQLSTATE classes 08 (connection) and 57P (operator intervention: shutdown, crash, terminated) and every FATAL end it.
 */
export function leavesConnectionUsable(error: unknown): boolean {
  if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'string') return false;
  if (!/^[0-9A-Z]{5}$/.test(error.code) || /^(?:08|57P)/.test(error.code)) return false;
  // Node's own codes (EPIPE) can be five letters long too; the server's errors always carry a severity.
  return 'severity' in error && error.severity !== 'FATAL' && error.severity !== 'PANIC';
}
