import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';

import { openApiDocument } from '../../src/http/openapi.ts';
import { REQUEST_REFUSALS, VERIFICATION_REFUSALS } from '../../src/domain/refusals.ts';
import { createUsageItemSchema } from '../../src/admission/usage-input.ts';
import { verifyInputSchema } from '../../src/admission/verify-input.ts';
import { openDataPlane, type DataPlane } from './data-plane.ts';

type Node = { readonly [name: string]: unknown };

let plane: DataPlane;
let served: Node;
beforeAll(async () => {
  plane = await openDataPlane();
  served = (await plane.ask('/openapi.json')).body;
});
afterAll(() => plane.close());

const document = openApiDocument() as Node;

function at(root: unknown, ...path: readonly string[]): unknown {
  return path.reduce<unknown>((node, name) => (node as Node | undefined)?.[name], root);
}

/** Every object in the document, with where it stands. */
function* nodes(value: unknown, path: readonly string[] = []): Generator<{ readonly path: readonly string[]; readonly node: Node }> {
  if (typeof value !== 'object' || value === null) return;
  if (!Array.isArray(value)) yield { path, node: value as Node };
  for (const [name, child] of Object.entries(value)) yield* nodes(child, [...path, name]);
}

/** A schema of the document as zod reads it, its references put in place. */
function schemaOf(schema: unknown): z.ZodType {
  const inline = JSON.parse(JSON.stringify(schema), (_name, value: unknown) => {
    const reference = at(value, '$ref');
    return typeof reference === 'string' ? at(document, ...reference.slice(2).split('/')) : value;
  }) as Parameters<typeof z.fromJSONSchema>[0];
  return z.fromJSONSchema(inline);
}

describe('/openapi.json', () => {
  it('is served as it is printed, and may be kept and read by documentation tools', async () => {
    const { status, headers, text } = await plane.ask('/openapi.json');
    expect(status).toBe(200);
    expect(headers.get('cache-control')).toContain('max-age');
    expect(headers.get('access-control-allow-origin')).toBe('*');
    expect(text).toBe(`${JSON.stringify(document, null, 2)}\n`);
  });

  it('is OpenAPI 3.1 with an operation for each path that is served, and refers to nothing that is not there', async () => {
    expect(served['openapi']).toBe('3.1.0');
    expect(Object.keys(served['paths'] as Node)).toEqual([
      '/v1/verify',
      '/v1/verify/batch',
      '/v1/usage',
      '/v1/forward-auth',
      '/v1/forward-auth/{target}',
      '/livez',
      '/readyz',
      '/metrics',
      '/openapi.json',
    ]);
    for (const [path, operations] of Object.entries(served['paths'] as Record<string, Readonly<Record<string, Node>>>)) {
      for (const [method, operation] of Object.entries(operations)) {
        const { status } = await plane.ask(path, { method: method.toUpperCase() });
        expect({ path, method, known: status !== 404 && status !== 405 }).toEqual({ path, method, known: true });
        for (const part of ['operationId', 'summary', 'responses', 'security']) expect(operation).toHaveProperty(part);
      }
    }
    for (const { node } of nodes(served)) {
      if (typeof node['$ref'] === 'string') expect(at(served, ...node['$ref'].slice(2).split('/'))).toBeDefined();
    }
  });

  it('has an id of its own for each operation', () => {
    const ids = [...nodes(document)].flatMap(({ node }) => (typeof node['operationId'] === 'string' ? [node['operationId']] : []));
    expect(new Set(ids).size).toBe(ids.length);
  });

  it('has examples that are valid by their schemas', () => {
    let checked = 0;
    for (const { path, node } of nodes(document)) {
      if (typeof node['examples'] !== 'object' || node['schema'] === undefined) continue;
      for (const { value } of Object.values(node['examples'] as Record<string, { value: unknown }>)) {
        expect({ path, error: schemaOf(node['schema']).safeParse(value).error }).toEqual({ path, error: undefined });
        checked++;
      }
    }
    expect(checked).toBeGreaterThan(20);
  });

  it('would find an example that is not', () => {
    const answer = at(document, 'components', 'schemas', 'VerifyAnswer');
    expect(schemaOf(answer).safeParse({ valid: true }).success).toBe(false);
    expect(schemaOf(answer).safeParse({ ...exampleAnswer(), unknown: 1 }).success).toBe(false);
    expect(schemaOf(answer).safeParse(exampleAnswer()).success).toBe(true);
  });

  it('has request examples that the parsers take', () => {
    const example = (path: string, type: string) =>
      at(document, 'paths', path, 'post', 'requestBody', 'content', type, 'examples', 'example', 'value');
    expect(verifyInputSchema.safeParse(example('/v1/verify', 'application/json')).error).toBeUndefined();
    const item = createUsageItemSchema(() => new Date('2026-02-01T00:00:00Z'));
    expect(z.array(item).safeParse(example('/v1/usage', 'application/json')).error).toBeUndefined();
    const lines = String(example('/v1/usage', 'application/x-ndjson')).trim().split('\n');
    expect(z.array(item).safeParse(lines.map((line) => JSON.parse(line) as unknown)).error).toBeUndefined();
  });

  it('names every refusal of a verification and the status of every refused request', () => {
    const description = String(at(document, 'paths', '/v1/verify', 'post', 'description'));
    for (const [code, { httpStatus, message }] of Object.entries(VERIFICATION_REFUSALS))
      expect(description).toContain(`| \`${code}\` | ${httpStatus} | ${message} |`);
    const responses = Object.keys(at(document, 'paths', '/v1/verify', 'post', 'responses') as Node);
    for (const { httpStatus } of Object.values(REQUEST_REFUSALS)) {
      // 404, 405 and 431 are answers to requests that reach no operation.
      if (![404, 405, 431].includes(httpStatus)) expect(responses).toContain(String(httpStatus));
    }
  });

  it('describes what is really answered', async () => {
    const token = (await plane.newToken(['keys:verify'])).secret;
    const { secret } = await plane.ledger.newKey({
      permissions: ['a'],
      metadata: { a: [1] },
      quotas: { total: 1 },
      limits: { requestsPerMinute: 5 },
    });
    const answers = [
      await plane.post('/v1/verify', { key: secret }, { token }),
      await plane.post('/v1/verify', { key: secret }, { token }),
      await plane.post('/v1/verify', {}, { token }),
      await plane.post('/v1/verify', {}),
    ];
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 400, 401]);
    for (const { status, body } of answers) {
      const schema = at(document, 'paths', '/v1/verify', 'post', 'responses', String(status), 'content', 'application/json', 'schema');
      expect({ body, error: schemaOf(schema).safeParse(body).error }).toEqual({ body, error: undefined });
    }
  });
});

function exampleAnswer(): Node {
  return at(
    document,
    'paths',
    '/v1/verify',
    'post',
    'responses',
    '200',
    'content',
    'application/json',
    'examples',
    'valid',
    'value',
  ) as Node;
}
