import type { RequestListener, Server } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

import type { CryptoKey, JWK } from 'jose';
import { exportJWK, generateKeyPair } from 'jose';
import Provider from 'oidc-provider';

export type SigningKey = {
  readonly jwk: JWK & { readonly kid: string };
  readonly privateKey: CryptoKey;
  readonly publicKey: CryptoKey;
  readonly alg: string;
};

export type LoopbackIssuer = AsyncDisposable & {
  readonly url: string;
  /** Paths of the requests so far, discovery and key set included. */
  readonly requests: readonly string[];
  /** A real access token by the client_credentials grant, for the resource as audience. */
  token(options: { readonly audience: string; readonly claims?: Readonly<Record<string, unknown>> }): Promise<string>;
  /** From now on signs with this key alone and publishes no other. */
  rotateTo(key: SigningKey): void;
  /** Answers everything with this listener instead, until `rotateTo`. */
  answerWith(listener: RequestListener): void;
  goDown(): Promise<void>;
  comeBack(): Promise<void>;
};

export async function newSigningKey(alg: string, kid: string): Promise<SigningKey> {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true });
  return { jwk: { ...(await exportJWK(privateKey)), kid, alg, use: 'sig' }, privateKey, publicKey, alg };
}

/** A real OIDC provider on a free port of the loopback interface. */
export async function startLoopbackIssuer(key: SigningKey): Promise<LoopbackIssuer> {
  const requests: string[] = [];
  let listener: RequestListener = (_, response) => response.writeHead(503).end();
  let claims: Readonly<Record<string, unknown>> = {};
  let server = newServer();
  await listen(server, 0);
  const { port } = server.address() as AddressInfo;
  const url = `http://127.0.0.1:${port}`;

  function newServer(): Server {
    return createServer((request, response) => {
      requests.push(request.url ?? '');
      listener(request, response);
    });
  }

  function rotateTo({ jwk, alg }: SigningKey): void {
    listener = new Provider(url, {
      jwks: { keys: [jwk] },
      clients: [
        {
          client_id: 'gateway',
          client_secret: 'a client secret of the tests, of no worth',
          grant_types: ['client_credentials'],
          response_types: [],
          redirect_uris: [],
          token_endpoint_auth_method: 'client_secret_post',
          id_token_signed_response_alg: alg,
        },
      ],
      enabledJWA: { idTokenSigningAlgValues: [alg] },
      extraTokenClaims: () => claims,
      ttl: { ClientCredentials: 3600 },
      features: {
        clientCredentials: { enabled: true },
        devInteractions: { enabled: false },
        resourceIndicators: {
          enabled: true,
          getResourceServerInfo: (_: unknown, resource: string) => ({
            scope: '',
            audience: resource,
            accessTokenFormat: 'jwt',
            accessTokenTTL: 3600,
            jwt: { sign: { alg } },
          }),
        },
      },
    }).callback();
  }

  async function goDown(): Promise<void> {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }

  rotateTo(key);
  return {
    url,
    requests,
    token: async (options) => {
      claims = options.claims ?? {};
      const response = await fetch(`${url}/token`, {
        method: 'POST',
        body: new URLSearchParams({
          grant_type: 'client_credentials',
          client_id: 'gateway',
          client_secret: 'a client secret of the tests, of no worth',
          resource: options.audience,
        }),
      });
      const body = (await response.json()) as { readonly access_token?: string };
      if (body.access_token === undefined) {
        throw new Error(`no token: ${JSON.stringify(body)}`);
      }
      return body.access_token;
    },
    rotateTo,
    answerWith: (other) => {
      listener = other;
    },
    goDown,
    comeBack: async () => {
      server = newServer();
      await listen(server, port);
    },
    [Symbol.asyncDispose]: goDown,
  };
}

async function listen(server: Server, port: number): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', resolve);
  });
}
