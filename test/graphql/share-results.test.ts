import { parse, type ExecutionResult } from 'graphql';
import { expect, test } from 'vitest';

import type { Actor } from '../../src/domain/actor.ts';
import type { Permission } from '../../src/domain/permissions.ts';
import { createShareResults } from '../../src/graphql/share-results.ts';
import { at } from './at.ts';
import { eventually, openTestGraphql, randomName, type Update } from './graphql-server.ts';

const service = (permissions: readonly Permission[], organizationId = 'one'): Actor => ({
  kind: 'service',
  id: `service:${Math.random()}`,
  organizationId,
  role: null,
  permissions: new Set(permissions),
  tokenId: 'token',
  expiresAt: null,
});
const document = parse('subscription { changed }');
const asked = { document, operationName: undefined, variables: { a: 1 }, actor: service(['keys:read']) };

test('an update is resolved once for all who ask for the same and may see the same', () => {
  const share = createShareResults();
  const update = { shareBy: {}, position: 1n };
  let runs = 0;
  const run = (): ExecutionResult => ({ data: { runs: ++runs } });
  const results = Array.from({ length: 5 }, () =>
    share.execute({ ...update }, share.keyOf({ ...asked, actor: service(['keys:read']) }), run),
  );
  expect(runs).toBe(1);
  expect(new Set(results).size).toBe(1);
});

test('and once more for each who asks or may see otherwise, and for each other update', () => {
  const share = createShareResults();
  const update = { shareBy: {}, position: 1n };
  let runs = 0;
  const run = (): ExecutionResult => ({ data: { runs: ++runs } });
  const others = [
    asked,
    { ...asked, document: parse('subscription { changed }') },
    { ...asked, operationName: 'Changed' },
    { ...asked, variables: { a: 2 } },
    { ...asked, actor: service(['keys:read', 'usage:read']) },
    { ...asked, actor: service(['keys:read'], 'two') },
    { ...asked, actor: { ...service(['keys:read']), kind: 'member', role: 'MEMBER', memberId: 'm', id: 'member:m' } as const },
    { ...asked, actor: { ...service(['keys:read']), kind: 'member', role: 'MEMBER', memberId: 'n', id: 'member:n' } as const },
  ];
  for (const other of others) void share.execute(update, share.keyOf(other), run);
  expect(runs).toBe(others.length);
  void share.execute({ ...update, position: 2n }, share.keyOf(asked), run);
  void share.execute({ ...update, shareBy: {} }, share.keyOf(asked), run);
  void share.execute({ position: 1n }, share.keyOf(asked), run);
  expect(runs).toBe(others.length + 3);
});

test('a failure is not kept for those who come later', async () => {
  const share = createShareResults();
  const update = { shareBy: {}, position: 1n };
  let runs = 0;
  const run = async (): Promise<ExecutionResult> => (++runs === 1 ? { errors: [] } : { data: {} });
  await share.execute(update, share.keyOf(asked), run);
  await Promise.resolve();
  expect(await share.execute(update, share.keyOf(asked), run)).toEqual({ data: {} });
});

test('two who ask alike are each told what they may see', async () => {
  const server = await openTestGraphql();
  const query = `subscription ($organization: ID!) { apiKeyChanged(organizationId: $organization) { position apiKey { keyId alerts(first: 1) { edges { cursor } } } } }`;
  const may = await server.tokenOf({ permissions: ['keys:read', 'alerts:read'] });
  const mayNot = await server.tokenOf({ permissions: ['keys:read'] });
  const told = new Map<string, Update[]>();
  const clients = [may, mayNot, may, mayNot].map(({ token }, index) => {
    const client = server.socketClient(token);
    const updates: Update[] = [];
    told.set(`${index}`, updates);
    client.subscribe(
      { query, variables: { organization: server.organizationId } },
      { next: (update) => void updates.push(update as Update), error: () => undefined, complete: () => undefined },
    );
    return client;
  });
  await eventually('all follow', () => server.followers() === 5);
  for (let change = 0; change < 5; change++) await server.ledger.newKey({ name: randomName() });
  await eventually('all are told', () => [...told.values()].every((updates) => updates.length === 5));
  for (const [index, updates] of told) {
    for (const update of updates) {
      if (Number(index) % 2 === 0) expect(at(update, 'data.apiKeyChanged.apiKey.alerts')).toEqual({ edges: [] });
      else expect(update.errors?.[0]?.extensions?.['code']).toBe('FORBIDDEN');
    }
  }
  for (const client of clients) await client.dispose();
  await server.close();
});
