import { expect } from 'vitest';

import type { DataPlane } from './data-plane.ts';
import { openRawConnection } from './raw-connection.ts';

export type Forwarded = { readonly status: number; readonly headers: ReadonlyMap<string, string>; readonly body: string };
export type Sent = {
  readonly on?: DataPlane;
  readonly method?: string;
  readonly path?: string;
  readonly body?: string;
  readonly gateway?: string | null;
};

/** One request as a gateway would forward it, over a socket, with these headers as they stand. `gateway`: what it sends as its token in place of `token`; null for nothing. */
export async function sendForwarded(
  plane: DataPlane,
  token: string,
  headers: Readonly<Record<string, string>>,
  { on = plane, method = 'GET', path = '/v1/forward-auth', body, gateway = token }: Sent = {},
): Promise<Forwarded> {
  const connection = await openRawConnection(on.port);
  const sent = {
    host: 'keyledger',
    connection: 'close',
    ...(gateway === null ? {} : { 'x-gateway-token': gateway }),
    ...(body === undefined ? {} : { 'content-length': String(body.length) }),
    ...headers,
  };
  const lines = Object.entries(sent).map(([name, value]) => `${name}: ${value}\r\n`);
  connection.write(`${method} ${path} HTTP/1.1\r\n${lines.join('')}\r\n${body ?? ''}`);
  const [head = '', ...rest] = (await connection.ended()).split('\r\n\r\n');
  const [statusLine = '', ...answered] = head.split('\r\n');
  const pairs = answered.map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()] as const);
  expect(new Set(pairs.map(([name]) => name)).size).toBe(pairs.length);
  return { status: Number(statusLine.split(' ')[1]), headers: new Map(pairs), body: rest.join('\r\n\r\n') };
}

/** A list of structured fields (RFC 9651) whose items are strings with integers as parameters. */
export function structuredList(text: string | undefined): Readonly<Record<string, Readonly<Record<string, number>>>> {
  const items = String(text).split(', ');
  return Object.fromEntries(
    items.map((item) => {
      const parts = /^"([a-z_]+)"((?:;[a-z]+=\d{1,15})*)$/.exec(item);
      if (parts === null) throw new Error(`${item} is no item of a structured field`);
      const parameters = [...String(parts[2]).matchAll(/;([a-z]+)=(\d+)/g)].map(
        ([, name, value]) => [String(name), Number(value)] as const,
      );
      return [String(parts[1]), Object.fromEntries(parameters)];
    }),
  );
}
