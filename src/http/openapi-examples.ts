const KEY_ID = '019a9f3e-1f2b-7c3d-8e4f-5a6b7c8d9e0f';
const ORGANIZATION_ID = '019a9f3d-0a1b-7c2d-9e3f-4a5b6c7d8e9f';

/** The examples of the OpenAPI document; each is valid by the schema that it illustrates. */
export const EXAMPLES = {
  verifyRequest: {
    key: 'sk_live_<the rest of the secret>',
    permissions: ['read:experiences'],
    cost: 1,
    endpoint: 'GET /v1/models',
    ip: '203.0.113.7',
  },
  verifyValid: {
    valid: true,
    code: 'VALID',
    message: null,
    requestId: 'req_123',
    position: '123',
    key: {
      id: KEY_ID,
      name: 'checkout',
      type: 'SECRET',
      category: 'production',
      permissions: ['read:experiences'],
      metadata: {},
      expiresAt: null,
      profile: null,
      organizationId: ORGANIZATION_ID,
      ownerId: null,
      outdatedSecret: false,
    },
    rateLimit: { limit: 60, remaining: 59, reset: 1_763_651_000 },
    quotas: [{ window: 'DAILY', limit: 1000, remaining: 999 }],
  },
  verifyRefused: {
    valid: false,
    code: 'QUOTA_EXCEEDED',
    message: 'Rate limit exceeded: quota daily',
    requestId: 'req_124',
    position: '124',
    key: null,
    rateLimit: null,
    quotas: [{ window: 'DAILY', limit: 1000, remaining: 0 }],
    quota: 'daily',
    retryAfter: 1800,
  },
  usageItems: [
    {
      requestId: 'req_123',
      endpoint: 'POST /v1/chat',
      status: 200,
      durationMs: 412,
      tokensIn: 812,
      tokensOut: 96,
      model: 'small-1',
      costMicros: 1430,
    },
    { keyId: KEY_ID, at: '2026-01-31T12:00:00Z', endpoint: 'GET /v1/models', status: 200, durationMs: 8 },
  ],
  usageLines: `{"requestId":"req_123","endpoint":"POST /v1/chat","status":200,"durationMs":412}\n{"keyId":"${KEY_ID}","endpoint":"GET /v1/models","status":200,"durationMs":8}\n`,
  usageAnswer: { accepted: 2, duplicates: 0, position: '126' },
  liveness: { status: 'ok' },
  readiness: {
    status: 'ready',
    checks: { database: { ok: true }, migrations: { ok: true }, projectors: { ok: true }, draining: { ok: true } },
  },
  unready: {
    status: 'unavailable',
    checks: {
      database: { ok: true },
      migrations: { ok: true },
      projectors: { ok: true },
      draining: { ok: false, reason: 'The server is stopping.' },
    },
  },
} as const;
