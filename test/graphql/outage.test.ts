import { describe, expect, it } from 'vitest';

import { asAdmin } from '../support/database.ts';
import { CONTRACT } from './contract-documents.ts';
import { eventually, openTestGraphql } from './graphql-server.ts';

describe('when things go down', () => {
  it('a database that is gone is SERVICE_UNAVAILABLE, with nothing of it in the answer', async () => {
    const server = await openTestGraphql();
    expect((await server.query('{ viewer { role } }')).errors).toEqual([]);
    await server.ledger.testDatabase.drop();
    const answer = await server.query('{ viewer { role } }');
    expect(answer.status).toBe(503);
    expect(answer.headers.get('retry-after')).toBe('1');
    expect(answer.errors).toEqual([
      { message: 'The database can not be reached; try again.', extensions: { code: 'SERVICE_UNAVAILABLE', retryAfter: 1 } },
    ]);
    expect((await server.query('{ __typename }', {}, null)).data).toEqual({ __typename: 'Query' });
    await server.close();
  });

  it('a bug is logged with an id, of which the client sees the id alone', async () => {
    const server = await openTestGraphql();
    await asAdmin((admin) => admin.query('ALTER TABLE keyledger.access_tokens RENAME TO lost'), server.ledger.testDatabase.name);
    const answer = await server.query('{ viewer { role } }');
    expect(answer.errors[0]?.extensions).toMatchObject({ code: 'INTERNAL_SERVER_ERROR' });
    expect(JSON.stringify(answer)).not.toMatch(/access_tokens|relation|stack|at \w+ \(/);
    expect(server.logLines.join()).toContain(answer.errors[0]?.extensions?.['errorId']);
    await server.close();
  });

  it('a server that closes ends sockets with 1001 and streams with a last message', async () => {
    const server = await openTestGraphql();
    const variables = { organization: server.organizationId };
    const closes: number[] = [];
    const client = server.socketClient(server.ownerToken, { on: { closed: (event) => void closes.push((event as CloseEvent).code) } });
    const overSocket = client
      .iterate({ query: CONTRACT.Changed, variables })
      .next()
      .catch(() => 'closed');
    const overSse = server.events(CONTRACT.Changed, variables, new AbortController().signal).next();
    await eventually('both follow', () => server.graphql.subscriptions() === 2);
    await server.graphql.close();
    expect(await overSocket).toBe('closed');
    expect(closes).toEqual([1001]);
    expect((await overSse).value).toMatchObject({ errors: [{ extensions: { code: 'SERVICE_UNAVAILABLE' } }] });
    await eventually('nothing is left', () => server.followers() === 0);
    await server.close();
  });
});
