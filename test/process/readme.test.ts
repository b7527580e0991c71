import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { access, chmod, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { endProcess, postmasterOf, processTree, ROOT, spawnServer, survivors, type ServerProcess } from './server-process.ts';

/** Fenced commands, each with the output that the README prints below them; null where it prints none. */
type Step = { readonly commands: string; readonly output: string | null };

let readme: string;
let steps: readonly Step[];
let root: string;
let server: ServerProcess;
let url: string;

beforeAll(async () => {
  readme = await readFile(join(ROOT, 'README.md'), 'utf8');
  const fences = [...readme.matchAll(/^```(\w+)\n([^]*?)^```$/gm)].map(([, language = '', text = '']) => ({ language, text }));
  steps = fences.flatMap(({ language, text }, index) => {
    const next = fences[index + 1];
    return language === 'bash' ? [{ commands: text, output: next === undefined || next.language === 'bash' ? null : next.text }] : [];
  });
  root = await mkdtemp(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'keyledger-readme-'));
  await chmod(root, 0o755);
  const start = /^npm ci && (npm start)\n$/.exec(steps[0]?.commands ?? '')?.[1];
  if (start === undefined) throw new Error('the README does not begin with npm ci && npm start');
  // What npm ci does is over: this suite runs.
  server = spawnServer(['bash', '-c', start], { DATA_DIR: join(root, 'data') });
  url = await server.listening();
});

afterAll(async () => {
  await endProcess(server);
  const left = await postmasterOf(join(root, 'data'));
  if (left !== undefined) process.kill(left, 'SIGINT');
  while ((await postmasterOf(join(root, 'data'))) !== undefined) await sleep(20);
  await rm(root, { recursive: true, force: true });
});

/** Leaves of an output what does not change from one run to the next. */
function normalised(text: string): string {
  return text
    .replace(/^(?:applied \S+\n|…\n)+/, 'applied …\n') // the next migration is no reason to change the README
    .replaceAll(/\bklat_[0-9A-Za-z]{49}\b/g, '<token>')
    .replaceAll(/\b(sk|pk)_(live|test)_[0-9A-Za-z]{65}\b/g, '$1_$2_<secret>')
    .replaceAll(/\b(sk|pk)_(live|test)_[0-9A-Za-z]{4}\.\.\.[0-9A-Za-z]{4}\b/g, '$1_$2_<masked>')
    .replaceAll(/\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b/g, '<uuid>')
    .replaceAll(/"id":"[A-Za-z0-9+/]{20,}=*"/g, '"id":"<id>"')
    .replaceAll(/\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/g, '<time>')
    .replaceAll(/"reset":\d{10}\b/g, '"reset":<seconds>')
    .replaceAll(/http:\/\/127\.0\.0\.1:\d+/g, '<url>')
    .trim();
}

/** Runs scripts in one bash, as a reader would paste them one after the other. Answers what each printed. */
async function paste(scripts: readonly string[]): Promise<readonly string[]> {
  const mark = '---- end of step ----';
  const bash = spawn('bash', ['--noprofile', '--norc'], { cwd: root, stdio: ['pipe', 'pipe', 'pipe'] });
  let printed = '';
  for (const stream of [bash.stdout, bash.stderr]) stream.setEncoding('utf8').on('data', (text: string) => (printed += text));
  bash.stdin.end(scripts.map((script) => `${script}\necho '${mark}'\n`).join(''));
  await new Promise((resolve) => bash.once('close', resolve));
  return printed.split(`${mark}\n`).slice(0, -1);
}

test('its commands, pasted in order into a shell, print what it says', async () => {
  const [start, ...rest] = steps;
  const [printed = ''] = server.stdout().split(/^keyledger listens/m);
  // npm says first what it runs.
  const said = server.stdout().slice(printed.indexOf('applied '));
  expect(normalised(said).split('A first request')[0]).toBe(normalised(start?.output ?? '').split('A first request')[0]);

  const token = /klat_[0-9A-Za-z]{49}/.exec(server.stdout())?.[0] ?? '';
  const scripts = rest.map(({ commands }) => commands.replaceAll(/klat_[0-9A-Za-z]{49}/g, token).replaceAll('http://127.0.0.1:4000', url));
  const outputs = await paste(scripts);
  expect(outputs.length).toBe(rest.length);
  for (const [index, { output }] of rest.entries()) expect(normalised(outputs[index] ?? '')).toBe(normalised(output ?? ''));
  expect(outputs.join('')).not.toContain('"errors"');
});

test('the comparison fails where an output is another', () => {
  const output = steps.find((step) => step.output?.includes('"code":"VALID"'))?.output ?? '';
  expect(output).not.toBe('');
  expect(normalised(output.replace('VALID', 'INACTIVE'))).not.toBe(normalised(output));
  expect(normalised(output.replace('"limit":60', '"limit":61'))).not.toBe(normalised(output));
});

test('Ctrl-C ends npm start and all that it started', async () => {
  const tree = await processTree(server.pid);
  expect(tree.length).toBeGreaterThan(6);
  server.signalGroup('SIGINT');
  await server.ended;
  await expect.poll(() => survivors(tree), { timeout: 15_000 }).toEqual([]);
  expect(server.stdout()).toContain('\nkeyledger is stopping.\n');
});

test('what it links to in the repository is there, and it says how to test and under which licence', async () => {
  const links = [...readme.matchAll(/\]\((?!https?:)([^)#]+)\)/g)].map(([, path = '']) => path);
  expect(links.length).toBeGreaterThan(8);
  for (const path of links) await access(join(ROOT, path));
  // Each page of the docs can be reached from here.
  for (const page of await readdir(join(ROOT, 'docs'))) expect(links).toContain(`docs/${page}`);
  expect(readme).toContain('npm ci && npm test');
  expect(readme).toContain('[MIT](LICENSE)');
});

test('its glossary has the words of the domain, one line each', () => {
  const words = [...readme.matchAll(/^\| (\w+) \| .+ \|$/gm)].map(([, word]) => word);
  expect(words).toEqual([
    'Word',
    'key',
    'secret',
    'verifier',
    'organization',
    'member',
    'team',
    'actor',
    'event',
    'position',
    'projection',
    'window',
    'quota',
    'limit',
    'plan',
    'profile',
    'balance',
    'alert',
    'refusal',
    'settle',
  ]);
});
