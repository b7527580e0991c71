import { Agent, request } from 'node:http';

/** A verification that was answered VALID; its endpoint is a text of its own, by which it is found in the log. */
export type Passed = { readonly endpoint: string; readonly position: bigint };

export type VerifyLoad = {
  readonly passed: readonly Passed[];
  /** Resolves when every caller has stopped: at the first connection that breaks, or at `stop`. */
  readonly ended: Promise<void>;
  stop(): void;
};

/** Callers that verify keys without pause over kept connections, each until its server is gone. Each verification costs 1 and names its own endpoint. */
export function startVerifyLoad(options: {
  readonly url: string;
  readonly token: string;
  readonly secrets: readonly string[];
  readonly callers: number;
  readonly name: string;
}): VerifyLoad {
  const { url, token, secrets, callers, name } = options;
  const agent = new Agent({ keepAlive: true, maxSockets: callers });
  const passed: Passed[] = [];
  let going = true;
  let sent = 0;

  function verify(body: string): Promise<{ readonly code: string; readonly position: string | null }> {
    return new Promise((resolve, reject) => {
      const asking = request(`${url}/v1/verify`, {
        method: 'POST',
        agent,
        headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
      });
      asking.on('error', reject);
      asking.on('response', (response) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (chunk: string) => (text += chunk));
        response.on('error', reject);
        response.on('end', () =>
          resolve(
            response.statusCode === 200
              ? (JSON.parse(text) as { code: string; position: string | null })
              : { code: `HTTP ${response.statusCode}`, position: null },
          ),
        );
      });
      asking.end(body);
    });
  }

  const ended = Promise.all(
    Array.from({ length: callers }, async () => {
      while (going) {
        const number = sent++;
        const endpoint = `GET /${name}/${number}`;
        try {
          const { code, position } = await verify(JSON.stringify({ key: secrets[number % secrets.length], endpoint }));
          if (code === 'VALID' && position !== null) passed.push({ endpoint, position: BigInt(position) });
          // 503: the database is away. Nothing was promised.
          else if (!code.startsWith('HTTP 5')) throw new Error(`a verification was answered ${code}`);
          else return;
        } catch (error) {
          if (error instanceof Error && 'code' in error) return; // the connection broke: nothing was promised
          throw error;
        }
      }
    }),
  ).then(() => agent.destroy());
  return { passed, ended, stop: () => void (going = false) };
}
