import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { createClient } from 'graphql-sse';
import { afterAll, beforeAll, expect, it } from 'vitest';

import { startTestServer } from '../support/server.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const CONSUMER = 'fixtures/typed-consumer.ts';
const RUN_TIMEOUT_MS = 25_000;

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'keyledger-codegen-'));
  const { code, output } = await run('graphql-codegen', ['--config', 'codegen.ts'], { CODEGEN_OUTPUT: join(directory, 'generated') });
  if (code !== 0) throw new Error(output);
  // What was generated imports packages, which are looked for in the folders above it.
  await symlink(join(ROOT, 'node_modules'), join(directory, 'node_modules'), 'junction');
  await writeFile(join(directory, 'package.json'), JSON.stringify({ type: 'module' }));
  await mkdir(join(directory, 'fixtures'));
  await cp(join(ROOT, 'test/conformance', CONSUMER), join(directory, CONSUMER));
});
afterAll(() => rm(directory, { recursive: true, force: true }));

/** What the consumer asks of its surroundings; its own types are those of the generated documents, which are nowhere but in the folder of this run. */
type Ask = (document: { toString(): string }, variables: Readonly<Record<string, unknown>>) => Promise<unknown>;
type Consumer = { readonly useEveryDocument: (execute: Ask, first: Ask) => Promise<unknown> };

type Ended = { readonly code: number; readonly output: string };

/** Runs a tool of the project's own. */
function run(tool: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Ended> {
  return new Promise((resolve, reject) => {
    execFile(
      join(ROOT, 'node_modules/.bin', tool),
      args,
      { cwd: ROOT, timeout: RUN_TIMEOUT_MS, env: { ...process.env, ...env } },
      (error, stdout, stderr) => {
        if (error !== null && typeof error.code !== 'number') reject(new Error(`${tool} did not run: ${error.message}`, { cause: error }));
        else resolve({ code: typeof error?.code === 'number' ? error.code : 0, output: stdout + stderr });
      },
    );
  });
}

/** Type-checks one file with what it imports, as strictly as the project. */
async function typeCheck(file: string): Promise<Ended> {
  const project = join(directory, 'tsconfig.json');
  await writeFile(
    project,
    JSON.stringify({
      extends: join(ROOT, 'tsconfig.json'),
      compilerOptions: { lib: ['es2024', 'dom'], types: [] },
      include: [],
      exclude: [],
      files: [join(directory, file)],
    }),
  );
  return run('tsc', ['--project', project, '--pretty', 'false']);
}

it("tsc accepts a client of every document of the contract on codegen's types", async () => {
  expect(await typeCheck(CONSUMER)).toEqual({ code: 0, output: '' });
});

it.each([
  ['a field that no document selects', 'node.lastUsedAt', 'node.lastUsed', /TS2551.*lastUsed/],
  ['a variable of the wrong type', "status: 'ACTIVE'", "status: 'ALIVE'", /TS2322.*ALIVE/],
  ['a variable that is missing', "{ organization, after: '0' })).node", "{ after: '0' })).node", /TS2741.*organization/],
  ['a payload that may be a failure', 'succeeded(recordUsage)', 'recordUsage', /TS2339.*accepted/],
])('tsc refuses %s', async (_what, right, wrong, reason) => {
  const source = await readFile(join(directory, CONSUMER), 'utf8');
  expect(source).toContain(right);
  await writeFile(join(directory, 'fixtures/wrong.ts'), source.replace(right, wrong));
  const { code, output } = await typeCheck('fixtures/wrong.ts');
  expect(code).not.toBe(0);
  expect(output).toMatch(reason);
});

it('what the types promise is what a server answers', async () => {
  const server = await startTestServer();
  const live = createClient({ url: `${server.url}/graphql`, headers: { authorization: `Bearer ${server.token}` }, retryAttempts: 0 });
  try {
    const consumer = (await import(pathToFileURL(join(directory, CONSUMER)).href)) as Consumer;
    const execute: Ask = (document, variables) => server.query(document.toString(), variables);
    const first: Ask = async (document, variables) => {
      for await (const { data, errors } of live.iterate({ query: document.toString(), variables })) {
        if (data == null) throw new Error(JSON.stringify(errors));
        return data;
      }
      throw new Error('The stream ended without a result.');
    };
    expect(await consumer.useEveryDocument(execute, first)).toEqual({
      valid: true,
      accepted: 1,
      statuses: ['ACTIVE', 'ACTIVE', 'INACTIVE', 'ACTIVE', 'ACTIVE'],
      remaining: ['DAILY 1000'],
      listed: 1,
      endpoints: ['GET /v1/models'],
      requests: expect.any(Number) as unknown, // statistics follow the log at their own pace
      created: 1,
      changed: 'KEY_CREATED',
      tail: 'ORGANIZATION_CREATED',
      used: true,
      deleted: true,
    });
  } finally {
    live.dispose();
    await server.close();
  }
});
