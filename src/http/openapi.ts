import { z } from 'zod';

import { createUsageItemSchema, MAX_USAGE_ITEMS } from '../admission/usage-input.ts';
import { verifyInputSchema } from '../admission/verify-input.ts';
import { MAX_VERIFY_BATCH, verifyBatchSchema } from './verify-batch.ts';
import { REQUEST_REFUSALS, VERIFICATION_REFUSALS, type RequestRefusalCode } from '../domain/refusals.ts';
import type { JsonValue } from '../lib/canonical-json.ts';
import { errorSchema, livenessSchema, readinessSchema, usageAnswerSchema, verifyAnswerSchema } from './answer-schemas.ts';
import { JSON_TYPE, NDJSON_TYPES } from './media-type.ts';
import { forwardAuthPaths, FORWARD_AUTH_SCHEMES } from './openapi-forward-auth.ts';
import { EXAMPLES } from './openapi-examples.ts';
import { LIMIT_HEADERS } from './openapi-limit-headers.ts';

type Json = { readonly [name: string]: JsonValue };

/** The OpenAPI 3.1 document of the data plane, printed from the schemas that parse requests, those of the answers, and the catalogue of refusals. The same each time. */
export function openApiDocument(): Json {
  return {
    openapi: '3.1.0',
    info: {
      title: 'keyledger data plane',
      version: '1',
      description: 'Verification of API keys and reports of usage, for gateways and backends. Keys are managed over GraphQL at /graphql.',
      license: { name: 'MIT', identifier: 'MIT' },
    },
    servers: [{ url: '/' }],
    paths: {
      '/v1/verify': { post: verifyOperation() },
      '/v1/verify/batch': { post: verifyBatchOperation() },
      '/v1/usage': { post: usageOperation() },
      ...forwardAuthPaths(),
      '/livez': { get: openOperation('livez', 'Does the process answer?', { '200': json('It does.', 'Liveness', EXAMPLES.liveness) }) },
      '/readyz': {
        get: openOperation('readyz', 'Can this server do its work now?', {
          '200': json('It can.', 'Readiness', EXAMPLES.readiness),
          '503': json('It can not; the checks say why.', 'Readiness', EXAMPLES.unready),
        }),
      },
      '/metrics': {
        get: openOperation('metrics', 'Metrics for Prometheus', {
          '200': { description: 'Text format 0.0.4.', content: { 'text/plain': { schema: { type: 'string' } } } },
        }),
      },
      '/openapi.json': {
        get: openOperation('openapi', 'This document', {
          '200': { description: 'OpenAPI 3.1.', content: { [JSON_TYPE]: { schema: { type: 'object' } } } },
        }),
      },
    },
    components: {
      securitySchemes: {
        accessToken: { type: 'http', scheme: 'bearer', description: 'An access token of the organization, or a JWT of its OIDC provider.' },
        ...FORWARD_AUTH_SCHEMES,
      },
      schemas: {
        VerifyRequest: jsonSchema(verifyInputSchema),
        VerifyAnswer: jsonSchema(verifyAnswerSchema),
        UsageItem: jsonSchema(createUsageItemSchema(() => new Date(0))),
        UsageAnswer: jsonSchema(usageAnswerSchema),
        Error: jsonSchema(errorSchema),
        Liveness: jsonSchema(livenessSchema),
        Readiness: jsonSchema(readinessSchema),
      },
    },
  };
}

function verifyOperation(): Json {
  const meanings = Object.entries(VERIFICATION_REFUSALS).map(
    ([code, { httpStatus, message }]) => `| \`${code}\` | ${httpStatus} | ${message} |`,
  );
  return {
    operationId: 'verify',
    summary: 'May this key pass?',
    description: [
      'Needs the permission `keys:verify`. Always 200 where the question could be answered; the table has the status that the end client should see. The usage is committed before the answer.',
      'A `requestId` sent twice is one request: the second answer equals the first and consumes nothing.',
      ['| Code | Status for the end client | Message |', '|---|---|---|', '| `VALID` | 200 | |', ...meanings].join('\n'),
    ].join('\n\n'),
    security: [{ accessToken: [] }],
    requestBody: {
      required: true,
      content: { [JSON_TYPE]: { schema: reference('VerifyRequest'), examples: named(EXAMPLES.verifyRequest) } },
    },
    responses: {
      '200': {
        description: 'The answer, valid or not. The header fields are meant for the end client: pass them on.',
        headers: {
          ...LIMIT_HEADERS,
          'Retry-After': { description: 'Seconds; where a limit refused and waiting helps.', schema: { type: 'integer' } },
        },
        content: {
          [JSON_TYPE]: {
            schema: reference('VerifyAnswer'),
            examples: { valid: { value: EXAMPLES.verifyValid }, refused: { value: EXAMPLES.verifyRefused } },
          },
        },
      },
      ...refusals([
        'BAD_USER_INPUT',
        'UNAUTHENTICATED',
        'FORBIDDEN',
        'REQUEST_TIMEOUT',
        'REQUEST_ID_TAKEN',
        'PAYLOAD_TOO_LARGE',
        'UNSUPPORTED_MEDIA_TYPE',
        'INTERNAL_SERVER_ERROR',
        'SERVICE_UNAVAILABLE',
      ]),
    },
  };
}

function verifyBatchOperation(): Json {
  const answers = {
    type: 'object',
    required: ['answers'],
    properties: { answers: { type: 'array', items: { oneOf: [reference('VerifyAnswer'), reference('Error')] } } },
  };
  return {
    operationId: 'verifyBatch',
    summary: 'May these keys pass?',
    description: `Needs the permission \`keys:verify\`. Up to ${MAX_VERIFY_BATCH} questions, each decided by itself and answered in its place as by \`/v1/verify\`. One malformed question refuses all, before any is decided.`,
    security: [{ accessToken: [] }],
    requestBody: {
      required: true,
      content: {
        [JSON_TYPE]: {
          schema: jsonSchema(verifyBatchSchema),
          examples: named({ requests: [EXAMPLES.verifyRequest, EXAMPLES.verifyRequest] }),
        },
      },
    },
    responses: {
      '200': { description: 'The answers, in the order of the questions.', content: { [JSON_TYPE]: { schema: answers } } },
      ...refusals([
        'BAD_USER_INPUT',
        'UNAUTHENTICATED',
        'FORBIDDEN',
        'REQUEST_TIMEOUT',
        'PAYLOAD_TOO_LARGE',
        'UNSUPPORTED_MEDIA_TYPE',
        'INTERNAL_SERVER_ERROR',
        'SERVICE_UNAVAILABLE',
      ]),
    },
  };
}

function usageOperation(): Json {
  const lines = { schema: { type: 'string', description: 'One UsageItem a line.' }, examples: named(EXAMPLES.usageLines) };
  return {
    operationId: 'recordUsage',
    summary: 'What did these requests cost?',
    description: [
      `Needs the permission \`usage:write\`. Up to ${MAX_USAGE_ITEMS} items; all are recorded or none is.`,
      'An item whose `requestId` was verified completes that request; another is recorded as a request of its own, for which `keyId` is needed. An item with the `requestId` of one that was recorded or completed before is a duplicate and has no effect.',
    ].join('\n\n'),
    security: [{ accessToken: [] }],
    requestBody: {
      required: true,
      content: {
        [JSON_TYPE]: {
          schema: {
            oneOf: [{ type: 'array', minItems: 1, maxItems: MAX_USAGE_ITEMS, items: reference('UsageItem') }, reference('UsageItem')],
          },
          examples: named(EXAMPLES.usageItems),
        },
        [NDJSON_TYPES[0]]: lines,
      },
    },
    responses: {
      '200': json('All items are committed.', 'UsageAnswer', EXAMPLES.usageAnswer),
      ...refusals([
        'BAD_USER_INPUT',
        'UNAUTHENTICATED',
        'FORBIDDEN',
        'REQUEST_TIMEOUT',
        'PAYLOAD_TOO_LARGE',
        'UNSUPPORTED_MEDIA_TYPE',
        'INTERNAL_SERVER_ERROR',
        'SERVICE_UNAVAILABLE',
      ]),
    },
  };
}

function openOperation(operationId: string, summary: string, responses: Json): Json {
  return { operationId, summary, security: [], responses };
}

function refusals(codes: readonly RequestRefusalCode[]): Json {
  return Object.fromEntries(
    codes.map((code) => {
      const { httpStatus, message } = REQUEST_REFUSALS[code];
      const headers: Json =
        code === 'SERVICE_UNAVAILABLE'
          ? { headers: { 'Retry-After': { description: 'Seconds.', schema: { type: 'integer' } } } }
          : code === 'UNAUTHENTICATED'
            ? { headers: { 'WWW-Authenticate': { schema: { const: 'Bearer' } } } }
            : {};
      return [String(httpStatus), { ...json(`${message}.`, 'Error', { error: { code, message: `${message}.` } }), ...headers }];
    }),
  );
}

function json(description: string, schema: string, example: JsonValue): Json {
  return { description, content: { [JSON_TYPE]: { schema: reference(schema), examples: named(example) } } };
}

function named(value: JsonValue): Json {
  return { example: { value } };
}

function reference(schema: string): Json {
  return { $ref: `#/components/schemas/${schema}` };
}

/** What a client may send, or gets; OpenAPI 3.1 says the dialect for the whole document. */
function jsonSchema(schema: z.ZodType): Json {
  const { $schema: _dialect, ...rest } = z.toJSONSchema(schema, { io: 'input' });
  return JSON.parse(JSON.stringify(rest)) as Json; // without the hidden parts that zod leaves on the object
}
