import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import { connect, createServer as createTcpServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const DEADLINE_MS = 15_000;

/** Whether a program can be started here. What was missing is printed, so that a run shows what it did not test. */
export function hasProgram(name: string, versionArgument: string): boolean {
  const found = spawnSync(name, [versionArgument], { stdio: 'ignore', timeout: DEADLINE_MS }).error === undefined;
  if (!found)
    console.warn(`${name} is not installed (Debian: apt-get install ${name}), so what it makes of our answers is not tested here.`);
  return found;
}

export type Gateway = { readonly port: number; readonly url: string; /** All that it printed. */ said(): string; close(): Promise<void> };

/**
 * Starts a gateway on a free port with a configuration file of its own in a directory of its own, and waits until it listens. `configuration` and `command` are told the port and the directory; the
 * configuration file is `file` there. The process runs in the foreground and is ended by its id.
 */
export async function startGateway(
  configuration: (port: number, directory: string) => string,
  command: (directory: string) => readonly [string, ...string[]],
  file = 'gateway.conf',
): Promise<Gateway> {
  const directory = await mkdtemp(join(tmpdir(), 'keyledger-gateway-'));
  const port = await freePort();
  await writeFile(join(directory, file), configuration(port, directory));
  const [program, ...args] = command(directory);
  const child = spawn(program, args, {
    cwd: directory,
    env: { PATH: process.env['PATH'], HOME: directory, XDG_CONFIG_HOME: directory, XDG_DATA_HOME: directory },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => (said += text));
  const ended = once(child, 'close');
  ended.catch(() => undefined);

  async function close(): Promise<void> {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGTERM');
      const kill = setTimeout(() => child.kill('SIGKILL'), 5000);
      await ended;
      clearTimeout(kill);
    }
    await rm(directory, { recursive: true, force: true });
  }

  const deadline = Date.now() + DEADLINE_MS;
  while (!(await listens(port))) {
    if (child.exitCode !== null || Date.now() > deadline) {
      await close();
      throw new Error(`${program} does not listen: ${said}`);
    }
    await sleep(20);
  }
  return { port, url: `http://127.0.0.1:${port}`, said: () => said, close };
}

export type Upstream = { readonly port: number; readonly seen: readonly IncomingMessage[]; close(): Promise<void> };

/** The service behind a gateway: answers each request with 200 and, as JSON, what reached it. */
export async function startUpstream(): Promise<Upstream> {
  const seen: IncomingMessage[] = [];
  const server: Server = createServer((request, response) => {
    seen.push(request);
    let body = '';
    request.setEncoding('utf8').on('data', (text: string) => (body += text));
    request.on('end', () =>
      response
        .setHeader('content-type', 'application/json')
        .end(JSON.stringify({ method: request.method, url: request.url, headers: request.headers, body })),
    );
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    seen,
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

async function freePort(): Promise<number> {
  const server = createTcpServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
    socket.once('connect', () => socket.destroy());
  });
}
