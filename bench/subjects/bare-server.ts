// What any verification over HTTP costs at least: `node:http`, the same body read and parsed, an answer of the same size with the same headers, nothing decided.
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';

const answer = process.env['ANSWER'] ?? '{"valid":true}';
const headers = [
  'content-type',
  'application/json; charset=utf-8',
  'cache-control',
  'no-store',
  'x-content-type-options',
  'nosniff',
  'content-length',
  Buffer.byteLength(answer),
];

/** As keyledger reads it: nobody waits for the end where one chunk is the whole. */
function readBody(request: IncomingMessage, done: (text: string) => void): void {
  const announced = Number(request.headers['content-length']);
  const chunks: Buffer[] = [];
  request.on('data', (chunk: Buffer) => {
    if (chunk.length === announced) return done(chunk.toString());
    if (chunks.length === 0) request.on('end', () => done(Buffer.concat(chunks).toString()));
    chunks.push(chunk);
  });
}

const server = createServer((request, response) => {
  readBody(request, (text) => {
    const asked = JSON.parse(text) as { readonly key?: unknown };
    response.writeHead(typeof asked.key === 'string' ? 200 : 400, headers);
    response.end(answer);
  });
});
server.listen(0, '127.0.0.1', () => process.send?.({ port: (server.address() as AddressInfo).port }));
process.once('disconnect', () => process.exit(0));
process.once('SIGTERM', () => process.exit(0));
