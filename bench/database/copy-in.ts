import type pg from 'pg';
import type { Connection, QueryConfig } from 'pg';

type CopyConnection = Connection & { sendCopyFromChunk(chunk: Buffer): void; endCopyFrom(): void };

/**
 * `COPY … FROM STDIN` of one chunk over a pg client, resolved when it is committed. pg has the messages but no call for them; this is the submittable that its
 * own protocol handling asks for (`submit`, `handle…`), in its smallest form.
 */
export function copyIn(client: pg.Client, statement: string, data: Buffer): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  let failure: Error | undefined;
  const submittable = {
    submit: (connection: Connection) => connection.query(statement),
    handleCopyInResponse(connection: CopyConnection) {
      connection.sendCopyFromChunk(data);
      connection.endCopyFrom();
    },
    handleCommandComplete: () => undefined,
    handleError: (error: Error) => (failure = error),
    handleReadyForQuery: () => (failure === undefined ? resolve() : reject(failure)),
  };
  client.query(submittable as unknown as QueryConfig & pg.Submittable);
  return promise;
}
