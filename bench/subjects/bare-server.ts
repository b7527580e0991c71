// What any verification over HTTP costs at least: `node:http`, the same body read and parsed, an answer of the same size with the same headers, nothing decided.
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

const answer = process.env['ANSWER'] ?? '{"valid":true}';
const headers = {
  'content-type': 'application/json; charset=utf-8',
  'content-length': Buffer.byteLength(answer),
  'cache-control': 'no-store',
  'x-content-type-options': 'nosniff',
};

const server = createServer((request, response) => {
  const chunks: Buffer[] = [];
  request.on('data', (chunk: Buffer) => chunks.push(chunk));
  request.on('end', () => {
    const [first] = chunks;
    const text = chunks.length === 1 && first !== undefined ? first.toString() : Buffer.concat(chunks).toString();
    const asked = JSON.parse(text) as { readonly key?: unknown };
    response.writeHead(typeof asked.key === 'string' ? 200 : 400, headers);
    response.end(answer);
  });
});
server.listen(0, '127.0.0.1', () => process.send?.({ port: (server.address() as AddressInfo).port }));
process.once('disconnect', () => process.exit(0));
process.once('SIGTERM', () => process.exit(0));
