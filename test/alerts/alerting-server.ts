import { createAlerting } from '../../src/alerts/create-alerting.ts';
import { headPosition } from '../../src/ledger/append.ts';
import { createProjector } from '../../src/projections/projector.ts';
import { USAGE_PROJECTION } from '../../src/projections/usage-fold.ts';
import { installTestClock } from '../support/test-clock.ts';
import { eventually, openTestGraphql, type Update } from '../graphql/graphql-server.ts';
import { at } from '../graphql/at.ts';

export const RAISED = `subscription Alerts($organization: ID!, $after: Position) {
  alertRaised(organizationId: $organization, after: $after) {
    position alert { id kind severity message details raisedAt acknowledgedAt apiKey { id name } rule { id kind isDefault } }
  }
}`;

export type Raised = {
  readonly position: string;
  readonly alert: {
    readonly id: string;
    readonly kind: string;
    readonly severity: string;
    readonly message: string;
    readonly details: Readonly<Record<string, unknown>>;
    readonly apiKey: { readonly id: string; readonly name: string } | null;
    readonly rule: { readonly id: string; readonly kind: string; readonly isDefault: boolean } | null;
  };
};

/** The places in the log that move. */
const FOLLOWED = ['windows', 'statistics'];

export type AlertingServer = Awaited<ReturnType<typeof openAlertingServer>>;

/** A GraphQL server whose log is folded and evaluated for alerts, all on a database of their own. */
export async function openAlertingServer(options: { readonly clock?: boolean } = {}) {
  const server = await openTestGraphql();
  const clock = options.clock === true ? await installTestClock(server.ledger.testDatabase) : null;
  const onError = (error: Error): void => void server.ledger.errors.push(error);
  const { database } = server.ledger;
  const projector = createProjector({
    database,
    projections: [USAGE_PROJECTION],
    pollMs: 20,
    pauseMs: 20,
    onError,
    onPoisoned: () => undefined,
  });
  const alerting = createAlerting({ database, pollMs: 20, timeMs: 50, onError });
  return {
    ...server,
    clock() {
      if (clock === null) throw new Error('this server has the real clock');
      return clock;
    },
    variables: { organization: server.organizationId },
    /** What `alertRaised` brings over a WebSocket from now, or a position, on. */
    async follow(from: string | null = null, token = server.ownerToken) {
      const seen: Raised[] = [];
      const after = from ?? String(await headPosition(server.ledger.db));
      const client = server.socketClient(token);
      const iterator = client.iterate({ query: RAISED, variables: { organization: server.organizationId, after } });
      const reading = (async () => {
        for await (const update of iterator) seen.push(at(update as Update, 'data.alertRaised') as Raised);
      })().catch((error: unknown) => void server.ledger.errors.push(error as Error));
      return {
        seen,
        until: (count: number) => eventually(`${count} alerts are raised, not ${seen.length}`, () => seen.length >= count),
        async end() {
          await client.dispose();
          await reading;
        },
      };
    },
    /** Resolves when everything that is in the log now has been evaluated. */
    async settled() {
      projector.hurry();
      const head = await headPosition(server.ledger.db);
      await eventually('the log is evaluated', async () => {
        const places = await server.ledger.database.pool.query<{ position: bigint }>(
          'SELECT position FROM alert_progress WHERE name = ANY ($1)',
          [FOLLOWED],
        );
        return places.rows.every(({ position }) => position >= head);
      });
    },
    async mutate(name: string, input: Readonly<Record<string, unknown>>, selection: string, token = server.ownerToken) {
      const title = name.charAt(0).toUpperCase() + name.slice(1);
      const document = `mutation M($input: ${title}Input!) { ${name}(input: $input) { __typename ... on ${title}Payload { position ${selection} } ... on UserError { code message } ... on InvalidInput { field } ... on NotFound { field } } }`;
      const answer = await server.query(document, { input }, token);
      if (answer.errors.length > 0) throw new Error(JSON.stringify(answer.errors));
      return at(answer.data, name) as Readonly<Record<string, unknown>>;
    },
    async close() {
      await alerting.stop();
      await projector.stop();
      await clock?.close();
      await server.close();
      if (server.ledger.errors.length > 0) throw new AggregateError(server.ledger.errors, 'something went wrong in the background');
    },
  };
}
