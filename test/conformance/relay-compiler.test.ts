import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import relayCompiler from 'relay-compiler';
import { afterEach, beforeEach, expect, it } from 'vitest';

const SCHEMA = fileURLToPath(new URL('../../schema/schema.graphql', import.meta.url));
const COMPILE_TIMEOUT_MS = 20_000;

/** A frontend's modules as Relay wants them: operations are named for their module. */
const MODULES = {
  KeyRow: `
    fragment KeyRow_key on ApiKey {
      id keyId name type status category masked permissions createdAt expiresAt lastUsedAt personal archived metadata
      createdBy { id } profile { id name }
      quotas { window limit used remaining availableAt }
      limits { unit windowSeconds limit remaining }
    }`,
  KeyList: `
    fragment KeyList_organization on Organization
      @argumentDefinitions(count: { type: "Int", defaultValue: 20 }, cursor: { type: "String" }, filter: { type: "ApiKeyFilter" })
      @refetchable(queryName: "KeyListPaginationQuery") {
      apiKeys(first: $count, after: $cursor, filter: $filter, orderBy: { field: CREATED_AT, direction: DESC })
        @connection(key: "KeyList_apiKeys", filters: ["filter", "orderBy"]) {
        totalCount
        edges { node { id ...KeyRow_key } }
      }
    }`,
  EventList: `
    fragment EventList_organization on Organization
      @argumentDefinitions(count: { type: "Int", defaultValue: 100 }, cursor: { type: "Position" })
      @refetchable(queryName: "EventListPaginationQuery") {
      ledgerEvents(first: $count, after: $cursor) @connection(key: "EventList_ledgerEvents") {
        edges { node { id position type subjectId at actorId data } }
      }
    }`,
  KeyRequests: `
    fragment KeyRequests_key on ApiKey
      @argumentDefinitions(count: { type: "Int", defaultValue: 50 }, cursor: { type: "String" })
      @refetchable(queryName: "KeyRequestsPaginationQuery") {
      requestLog(first: $count, after: $cursor) @connection(key: "KeyRequests_requestLog") {
        edges { node { requestId at endpoint status durationMs ip credits code position } }
      }
    }`,
  KeyPage: `
    query KeyPageQuery($id: ID!, $organization: ID!) {
      viewer { actorId role permissions organization { id name plan ...EventList_organization } }
      key: node(id: $id) { ...KeyRow_key @alias ...KeyRequests_key @alias ...KeyRefetch_key @alias }
      organization: node(id: $organization) { ...KeyList_organization @alias }
      nodes(ids: [$id, $organization]) { __typename id }
    }`,
  KeyRefetch: `
    fragment KeyRefetch_key on ApiKey @refetchable(queryName: "KeyRefetchQuery") { lastUsedAt status }`,
  CreateKey: `
    mutation CreateKeyMutation($input: CreateApiKeyInput!, $connections: [ID!]!) {
      createApiKey(input: $input) {
        __typename
        ... on CreateApiKeyPayload { secret position apiKey @prependNode(connections: $connections, edgeTypeName: "ApiKeyEdge") { id ...KeyRow_key } }
        ... on UserError { code message }
      }
    }`,
  DeleteKey: `
    mutation DeleteKeyMutation($input: DeleteApiKeyInput!, $connections: [ID!]!) {
      deleteApiKey(input: $input) {
        __typename
        ... on DeleteApiKeyPayload { position deletedId @deleteRecord @deleteEdge(connections: $connections) }
        ... on UserError { code message }
      }
    }`,
  LastUsed: `
    subscription LastUsedSubscription($organization: ID!, $keyIds: [ID!]) {
      keyUsed(organizationId: $organization, keyIds: $keyIds) { position requests apiKey { id lastUsedAt } }
    }`,
  KeyChanges: `
    subscription KeyChangesSubscription($organization: ID!, $after: Position) {
      apiKeyChanged(organizationId: $organization, after: $after) { position type apiKey { id ...KeyRow_key } }
    }`,
  Tail: `
    subscription TailSubscription($organization: ID!, $after: Position) {
      ledgerEvents(organizationId: $organization, after: $after) { position id type subjectId at actorId data }
    }`,
} as const;

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'keyledger-relay-'));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

type Compiled = { readonly code: number; readonly output: string; readonly artifacts: readonly string[] };

/** Compiles modules, each with one document, as a Relay project in TypeScript. */
async function compile(modules: Readonly<Record<string, string>>): Promise<Compiled> {
  const source = join(directory, 'src');
  const artifactDirectory = join(directory, 'artifacts');
  await mkdir(source);
  await mkdir(artifactDirectory);
  for (const [name, document] of Object.entries(modules)) {
    await writeFile(
      join(source, `${name}.ts`),
      `import { graphql } from 'relay-runtime';\n\nexport const document = graphql\`${document}\n\`;\n`,
    );
  }
  const config = {
    src: source,
    schema: SCHEMA,
    artifactDirectory,
    language: 'typescript',
    eagerEsModules: true,
    requireCustomScalarTypes: true,
    customScalarTypes: { DateTime: 'string', Position: 'string', JSON: 'unknown' },
  };
  const configFile = join(directory, 'relay.config.json');
  await writeFile(configFile, JSON.stringify(config));
  if (relayCompiler === null) throw new Error(`relay-compiler has no binary for ${process.platform} on ${process.arch}.`);
  const { code, output } = await run(relayCompiler, [configFile, '--noWatchman', '--output', 'verbose']);
  return { code, output, artifacts: (await readdir(artifactDirectory)).sort() };
}

function run(file: string, args: readonly string[]): Promise<{ readonly code: number; readonly output: string }> {
  return new Promise((resolve, reject) => {
    execFile(
      file,
      args,
      { cwd: directory, timeout: COMPILE_TIMEOUT_MS, env: { ...process.env, NO_COLOR: '1' } },
      (error, stdout, stderr) => {
        if (error !== null && typeof error.code !== 'number')
          reject(new Error(`relay-compiler did not run: ${error.message}`, { cause: error }));
        else resolve({ code: typeof error?.code === 'number' ? error.code : 0, output: stdout + stderr });
      },
    );
  });
}

it('relay-compiler accepts fragments, refetchable pages, mutations with connection updates, and subscriptions on the committed schema', async () => {
  const { code, output, artifacts } = await compile(MODULES);
  expect(output).not.toMatch(/error|warn/i);
  expect(code).toBe(0);
  expect(artifacts).toEqual(
    expect.arrayContaining([
      'KeyListPaginationQuery.graphql.ts',
      'EventListPaginationQuery.graphql.ts',
      'KeyPageQuery.graphql.ts',
      'TailSubscription.graphql.ts',
    ]),
  );
});

it.each([
  ['a field that does not exist', { Wrong: 'query WrongQuery { viewer { nickname } }' }, /nickname/],
  [
    'a page of what is no connection',
    { Wrong: `fragment Wrong_viewer on Viewer { organization @connection(key: "Wrong_organization") { id } }` },
    /@connection|connection/,
  ],
  [
    'a refetchable fragment on a type without id',
    { Wrong: `fragment Wrong_use on ApiKeyUse @refetchable(queryName: "WrongQuery") { requests }` },
    /refetchable/,
  ],
])('relay-compiler refuses %s', async (_what, modules, reason) => {
  const { code, output } = await compile(modules);
  expect(code).toBe(1);
  expect(output).toMatch(reason);
});
