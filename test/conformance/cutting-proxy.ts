import { createServer, connect, type AddressInfo, type Socket } from 'node:net';

/** A line to a server that breaks again and again: TCP through a port of its own, in which connections are reset after some bytes of the answers. */
export type CuttingProxy = {
  /** As the server's, through the proxy. */
  readonly url: string;
  /** How often a connection was broken so far. */
  cuts(): number;
  close(): Promise<void>;
};

export type CuttingProxyOptions = {
  /** Connections that are broken; from then on all stay. */
  readonly cuts: number;
  /** So many bytes of answers one of them carries, at random between the two; where that ends is in the middle of a message more often than not. */
  readonly minBytes: number;
  readonly maxBytes: number;
};

export async function openCuttingProxy(target: string, { cuts, minBytes, maxBytes }: CuttingProxyOptions): Promise<CuttingProxy> {
  const { hostname, port } = new URL(target);
  const sockets = new Set<Socket>();
  let begun = 0;
  let done = 0;

  const proxy = createServer((client) => {
    const server = connect(Number(port), hostname);
    let left = begun++ < cuts ? minBytes + Math.floor(Math.random() * (maxBytes - minBytes)) : Infinity;
    for (const socket of [client, server]) {
      sockets.add(socket);
      socket.on('error', () => socket.destroy());
      socket.once('close', () => {
        sockets.delete(socket);
        client.destroy();
        server.destroy();
      });
    }
    client.pipe(server);
    server.on('data', (chunk: Buffer) => {
      const passed = chunk.subarray(0, Math.min(left, chunk.length));
      left -= chunk.length;
      if (left > 0) {
        if (!client.write(passed)) {
          server.pause();
          client.once('drain', () => server.resume());
        }
        return;
      }
      left = Infinity;
      done++;
      server.destroy();
      // What was passed reaches the client, and then nothing more, not even an end.
      client.write(passed, () => client.resetAndDestroy());
    });
  });
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`,
    cuts: () => done,
    async close() {
      const closed = new Promise((resolve) => proxy.close(resolve));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}
