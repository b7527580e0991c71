import { listAt, textAt } from '../graphql/at.ts';
import { startTestServer, type TestServer, type TestServerOptions } from '../support/server.ts';

export type PublicInterface = Awaited<ReturnType<typeof openPublicInterface>>;

type Input = Readonly<Record<string, unknown>>;
/** What a test looks into with a matcher. */
export type Answer = Readonly<Record<string, unknown>>;
export type KeyShown = Answer & { readonly id: string; readonly keyId: string; readonly masked: string };
/** The payload; where the mutation was refused `code` and `message` stand in its place. */
export type NewKey = Answer & { readonly secret: string; readonly apiKey: KeyShown };

/** What each mutation of a key is asked for: all that a list of keys shows, and what refused it. */
const KEY = `id keyId name type status category masked permissions createdAt expiresAt lastUsedAt personal metadata ipAllowlist allowedOrigins rotateEveryDays
  quotas { window limit used remaining } limits { unit windowSeconds limit remaining }`;
const REFUSED = '... on UserError { code message } ... on InvalidInput { field }';

/** The product over its public interface alone, GraphQL and the data plane, as the owner of one organization. */
export async function openPublicInterface(options: TestServerOptions = {}) {
  const server: TestServer = await startTestServer(options);
  const organizationId = textAt(await server.query('{ viewer { organization { id } } }'), 'viewer.organization.id');
  let made = 0;

  /** A mutation's payload or refusal. */
  async function mutate<Payload = Answer>(name: string, input: Input, selection: string, token?: string): Promise<Payload> {
    const type = `${name.charAt(0).toUpperCase()}${name.slice(1)}`;
    const document = `mutation ($input: ${type}Input!) { ${name}(input: $input) { __typename ... on ${type}Payload { position ${selection} } ${REFUSED} } }`;
    return (await server.query(document, { input }, token))[name] as Payload;
  }

  return {
    server,
    organizationId,
    mutate,
    createKey: (input: Input = {}, token?: string): Promise<NewKey> =>
      mutate('createApiKey', { organizationId, name: `key ${++made}`, type: 'SECRET', ...input }, `secret apiKey { ${KEY} }`, token),
    updateKey: (input: Input): Promise<Answer & { readonly apiKey: KeyShown }> => mutate('updateApiKey', input, `apiKey { ${KEY} }`),
    /** `POST /v1/verify`: the answer's body. */
    async verify(question: Input): Promise<Answer> {
      const response = await fetch(`${server.url}/v1/verify`, {
        method: 'POST',
        headers: { authorization: `Bearer ${server.token}`, 'content-type': 'application/json' },
        body: JSON.stringify(question),
      });
      if (response.status !== 200) throw new Error(`${response.status} ${await response.text()}`);
      return (await response.json()) as Answer;
    },
    /** The keys of a list with a filter, by name. */
    async list(filter: Input): Promise<readonly string[]> {
      const document = `query ($filter: ApiKeyFilter) { viewer { organization { apiKeys(filter: $filter, first: 100, orderBy: { field: NAME, direction: ASC }) { edges { node { name } } } } } }`;
      const edges = listAt(await server.query(document, { filter }), 'viewer.organization.apiKeys.edges');
      return edges.map((edge) => textAt(edge, 'node.name'));
    },
    /** One key, by its global id. */
    async key(id: string, selection = KEY): Promise<Answer> {
      return (await server.query(`query ($id: ID!) { node(id: $id) { ... on ApiKey { ${selection} } } }`, { id }))['node'] as Answer;
    },
    close: () => server.close(),
  };
}
