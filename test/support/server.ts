import { randomBytes } from 'node:crypto';

import { pino } from 'pino';

import { readConfig } from '../../src/config.ts';
import { startServer } from '../../src/start-server.ts';
import { createTestDatabase, type TestDatabase } from './database.ts';

/** The product as it runs, on a port of its own. */
export type TestServer = {
  /** `http://127.0.0.1:<port>` */
  readonly url: string;
  /** An access token of the first organization's owner. */
  readonly token: string;
  readonly database: TestDatabase;
  /** What a second server on the same database has to be given. */
  readonly env: NodeJS.ProcessEnv;
  /** The lines, in JSON, that it logged as warning or worse. */
  readonly logged: readonly string[];
  /** Asks `/graphql`, as the owner unless told otherwise. Throws the errors of the answer, so that what is returned is the data. */
  query(document: string, variables?: Readonly<Record<string, unknown>>, token?: string): Promise<Answered>;
  close(): Promise<void>;
};

/** The test knows what it selected. */
// oxlint-disable-next-line typescript/no-explicit-any
export type Answered = Readonly<Record<string, any>>;

export type TestServerOptions = {
  /** An earlier server whose database, owner and peppers this one shares; that one is to be closed last. */
  readonly on?: TestServer;
  /** Settings beyond those that make it work, as the environment has them. */
  readonly env?: NodeJS.ProcessEnv;
};

/** Composes the whole product from its settings, as `npm start` does, on a database of its own. Without limit on the changes of a key. */
export async function startTestServer(options: TestServerOptions = {}): Promise<TestServer> {
  const database = options.on?.database ?? (await createTestDatabase());
  const release = async (): Promise<void> => {
    if (options.on === undefined) await database.drop();
  };
  const env = {
    ...(options.on?.env ?? {
      PORT: '0',
      DATABASE_URL: database.serverUrl.reveal(),
      MIGRATION_DATABASE_URL: database.ownerUrl.reveal(),
      KEY_PEPPERS: `test:${randomBytes(32).toString('base64')}`,
      BOOTSTRAP_TOKEN: randomBytes(32).toString('hex'),
      KEY_OPERATIONS_PER_HOUR: '0',
      SHUTDOWN_GRACE_SECONDS: '1',
    }),
    ...options.env,
  };
  const logged: string[] = [];
  const config = readConfig(env);
  const token = config.bootstrapToken?.reveal() ?? '';
  try {
    const server = await startServer(config, {
      logger: pino({ level: 'warn' }, { write: (line: string) => void logged.push(line) }),
      signal: new AbortController().signal,
      onProgress: () => undefined,
    });
    return {
      url: server.url,
      token,
      database,
      env,
      logged,
      query: (document, variables, asWhom = token) => query(server.url, asWhom, document, variables),
      async close() {
        await server.close();
        await release();
      },
    };
  } catch (error) {
    await release();
    throw error;
  }
}

async function query(url: string, token: string, document: string, variables: Readonly<Record<string, unknown>> = {}): Promise<Answered> {
  const response = await fetch(`${url}/graphql`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
    body: JSON.stringify({ query: document, variables }),
  });
  const { data, errors } = (await response.json()) as { readonly data?: Answered | null; readonly errors?: readonly unknown[] };
  if (errors !== undefined || data == null) throw new Error(`${response.status} ${JSON.stringify(errors)}`);
  return data;
}
