import type { IncomingMessage, ServerResponse } from 'node:http';
import {
  execute,
  getOperationAST,
  OperationTypeNode,
  type OperationDefinitionNode,
  type DocumentNode,
  type ExecutionResult,
  type GraphQLSchema,
} from 'graphql';
import { processRegularResult } from 'graphql-yoga';

import { toClientError } from './client-error.ts';
import type { GraphqlContext } from './context.ts';
import type { GraphqlDependencies } from './dependencies.ts';
import { directVerification, type DirectVerification } from './direct-verification.ts';
import type { GraphqlLimits } from './limits.ts';
import type { DocumentReader } from './operation.ts';
import type { WrittenLists } from './written-lists.ts';

/**
 * Answers a query or mutation that came as nearly all do: a POST of a JSON object that tells its length, for an answer in JSON. To Yoga it would be a Request with streams for bodies on its
 * way through some thirty hooks, which costs several times what it takes to execute an operation as small as `verifyApiKey`. Whatever differs is handed to Yoga, untouched or with the body that
 * was read, so that each odd request has one judge; the answers are the same to the byte.
 */
export type PlainPost = {
  /** Whether head and length of a request are of that kind. */
  takes(req: IncomingMessage): boolean;
  answer(req: IncomingMessage, res: ServerResponse): Promise<void>;
};

type Parts = {
  readonly deps: Pick<GraphqlDependencies, 'config' | 'logger'>;
  readonly limits: GraphqlLimits;
  readonly schema: GraphQLSchema;
  readonly reader: DocumentReader;
  /** Rejects with what the client is told where its credentials are no good. */
  readonly contextOf: (authorization: string | undefined) => Promise<GraphqlContext>;
  /** For an operation that does nothing but verify; null where the caller has to be authenticated. */
  readonly uncheckedContextOf: (authorization: string | undefined) => GraphqlContext | null;
  /** Answers everything else; the body where it was read already. */
  readonly full: (req: IncomingMessage, res: ServerResponse, body: Buffer) => Promise<void>;
};

type Operation = {
  readonly document: DocumentNode;
  readonly operationName: string | undefined;
  readonly variableValues: Readonly<Record<string, unknown>> | undefined;
  /** Where one key is verified and nothing else is done. */
  readonly direct: DirectVerification | null;
};

/** A result, and what of it was written already. */
type Answer = { readonly result: ExecutionResult; readonly lists: WrittenLists | null };

const JSON_TYPES = new Set(['application/json', 'application/json; charset=utf-8', 'application/json;charset=utf-8']);

const JSON_TYPE = 'application/json';
const GRAPHQL_TYPE = 'application/graphql-response+json';
/** What clients say that they accept, and what they are sent. */
const ANSWER_TYPES: ReadonlyMap<string | undefined, typeof JSON_TYPE | typeof GRAPHQL_TYPE> = new Map([
  [undefined, JSON_TYPE],
  ['*/*', JSON_TYPE],
  [JSON_TYPE, JSON_TYPE],
  ['application/json, text/plain, */*', JSON_TYPE],
  [GRAPHQL_TYPE, GRAPHQL_TYPE],
  [`${GRAPHQL_TYPE}, ${JSON_TYPE}`, GRAPHQL_TYPE],
  [`${GRAPHQL_TYPE},${JSON_TYPE};q=0.9`, GRAPHQL_TYPE],
]);

export function createPlainPost({ deps, limits, schema, reader, contextOf, uncheckedContextOf, full }: Parts): PlainPost {
  const { config, logger } = deps;
  const made = new WeakMap<OperationDefinitionNode, DirectVerification | null>();

  function operationOf(body: Buffer): Operation | null {
    const params = paramsOf(body);
    if (params === null) return null;
    const document = reader.read(params.query);
    if (!('kind' in document)) return null;
    const operation = getOperationAST(document, params.operationName);
    if (operation == null || operation.operation === OperationTypeNode.SUBSCRIPTION) return null;
    return {
      document,
      operationName: params.operationName ?? undefined,
      variableValues: params.variables ?? undefined,
      direct: directOf(operation),
    };
  }

  function directOf(operation: OperationDefinitionNode): DirectVerification | null {
    let direct = made.get(operation);
    if (direct === undefined) {
      direct = directVerification(schema, operation, limits);
      made.set(operation, direct);
    }
    return direct;
  }

  async function run(operation: Operation, authorization: string | undefined): Promise<Answer> {
    try {
      if (operation.direct !== null) {
        const verified = await verify(operation, operation.direct, uncheckedContextOf(authorization));
        if (verified !== null) return { result: verified, lists: null };
      }
      const context = await contextOf(authorization);
      return { result: masked(await executeWith(operation, context)), lists: context.writtenLists };
    } catch (error) {
      return { result: { errors: [toClientError(error, logger)] }, lists: null };
    }
  }

  /** Null where nothing was recorded and the caller has to be authenticated, to find what is to be said. */
  async function verify(operation: Operation, direct: DirectVerification, context: GraphqlContext | null): Promise<ExecutionResult | null> {
    if (context === null) return null;
    const verified = await direct(operation.variableValues, context);
    if (verified !== null) return verified;
    return context.unchecked?.mayHaveRecorded() === true ? masked(await executeWith(operation, context)) : null;
  }

  function executeWith({ document, operationName, variableValues }: Operation, contextValue: GraphqlContext) {
    return execute({ schema, document, contextValue, operationName, variableValues });
  }

  function masked(result: ExecutionResult): ExecutionResult {
    return result.errors === undefined ? result : { ...result, errors: result.errors.map((error) => toClientError(error, logger)) };
  }

  return {
    takes({ method, url, headers }) {
      return (
        method === 'POST' &&
        url === '/graphql' &&
        JSON_TYPES.has(headers['content-type'] ?? '') &&
        ANSWER_TYPES.has(headers.accept) &&
        Number(headers['content-length']) <= config.maxBodyBytes
      );
    },
    async answer(req, res) {
      const body = await readBody(req);
      if (body === null) return;
      const operation = operationOf(body);
      if (operation === null) return full(req, res, body);
      const answer = await run(operation, req.headers.authorization);
      send(res, answer, ANSWER_TYPES.get(req.headers.accept) ?? JSON_TYPE);
    },
  };
}

/** Null where the client went away in the middle. Node holds it to the length that it told. */
function readBody(req: IncomingMessage): Promise<Buffer | null> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    req.on('data', (chunk: Buffer) => chunks.push(chunk));
    req.once('end', () => resolve(chunks.length === 1 ? (chunks[0] ?? null) : Buffer.concat(chunks)));
    req.once('error', () => resolve(null));
  });
}

type Params = {
  readonly query: string;
  readonly operationName: string | null | undefined;
  readonly variables: Readonly<Record<string, unknown>> | null | undefined;
};

/** Null for all but an object with a query and nothing that Yoga would look at twice. */
function paramsOf(body: Buffer): Params | null {
  let given: unknown;
  try {
    given = JSON.parse(body.toString());
  } catch {
    return null;
  }
  if (!isObject(given)) return null;
  const { query, operationName, variables, extensions, ...others } = given;
  if (typeof query !== 'string' || Object.keys(others).length > 0) return null;
  if (operationName != null && typeof operationName !== 'string') return null;
  if ((variables != null && !isObject(variables)) || (extensions != null && !isObject(extensions))) return null;
  return { query, operationName, variables };
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function send(res: ServerResponse, { result, lists }: Answer, type: string): void {
  let init: MadeResponse['init'] = { status: 200, headers: { 'Content-Type': `${type}; charset=utf-8` } };
  const toText = (made: ExecutionResult): string => {
    if (made.errors === undefined) return JSON.stringify(made);
    // Which status and header fields come of errors, and what of them is shown, is Yoga's to say.
    const response = processRegularResult(made, { Response: MadeResponse } as never, type) as unknown as MadeResponse;
    init = response.init;
    return response.body;
  };
  const body = lists === null ? toText(result) : lists.bodyOf(result, toText);
  write(res, init.status, init.headers, body);
}

/** Takes the place of fetch's Response where Yoga makes one. */
class MadeResponse {
  readonly body: string;
  readonly init: { readonly status: number; readonly headers: Readonly<Record<string, string>> };
  constructor(body: string, init: MadeResponse['init']) {
    this.body = body;
    this.init = init;
  }
}

function write(res: ServerResponse, status: number, headers: Readonly<Record<string, string>>, body: string | Buffer): void {
  if (res.destroyed) return;
  res.writeHead(status, { ...headers, 'content-length': Buffer.byteLength(body) }).end(body);
}
