// better-auth's API key plugin behind `node:http`: makes keys with a remaining quota, then answers `{"key"}` with what its verification says.
// JavaScript, because it lives by its own node_modules, which the project's type-check does not have.
/* oxlint-disable typescript/no-unsafe-argument, typescript/no-unsafe-assignment, typescript/no-unsafe-call, typescript/no-unsafe-member-access -- no types are there to be safe by */
import { createServer } from 'node:http';

import { apiKey } from '@better-auth/api-key';
import { betterAuth } from 'better-auth';
import { getMigrations } from 'better-auth/db/migration';
import pg from 'pg';

const QUOTA = 1_000_000_000;

const options = {
  database: new pg.Pool({ connectionString: process.env.DATABASE_URL, max: Number(process.env.POOL_SIZE) }),
  secret: process.env.SECRET,
  baseURL: 'http://127.0.0.1',
  emailAndPassword: { enabled: true },
  telemetry: { enabled: false },
  logger: { level: 'error' },
  // Its quota is the `remaining` of each key. Its rate limit would be another UPDATE a request, so it is off.
  plugins: [apiKey({ rateLimit: { enabled: false } })],
};
await (await getMigrations(options)).runMigrations();
const auth = betterAuth(options);
const { user } = await auth.api.signUpEmail({ body: { name: 'Bench', email: 'bench@example.com', password: 'not a secret of anybody' } });
const keys = [];
for (let index = 0; index < Number(process.env.KEYS); index++) {
  const made = await auth.api.createApiKey({ body: { userId: user.id, name: `Key ${index}`, remaining: QUOTA, rateLimitEnabled: false } });
  keys.push(made.key);
}

const server = createServer((request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    const { key } = JSON.parse(Buffer.concat(chunks).toString());
    auth.api.verifyApiKey({ body: { key } }).then(
      (verdict) => send(response, 200, JSON.stringify(verdict)),
      (error) => send(response, 500, JSON.stringify({ error: String(error) })),
    );
  });
});

function send(response, status, body) {
  response.writeHead(status, { 'content-type': 'application/json; charset=utf-8', 'content-length': Buffer.byteLength(body) });
  response.end(body);
}

server.listen(0, '127.0.0.1', () => process.send({ port: server.address().port, keys }));
process.once('disconnect', () => process.exit(0));
process.once('SIGTERM', () => process.exit(0));
