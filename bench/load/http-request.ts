/** A whole HTTP/1.1 POST of JSON, ready to be sent. */
export function postRequest(path: string, body: string, headers: Readonly<Record<string, string>> = {}): string {
  const head = { host: '127.0.0.1', 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(body)), ...headers };
  const lines = Object.entries(head).map(([name, value]) => `${name}: ${value}\r\n`);
  return `POST ${path} HTTP/1.1\r\n${lines.join('')}\r\n${body}`;
}

/** What a gateway asks of one request: the key, and what it knows of the request. */
export function verifyBody(key: string): string {
  return JSON.stringify({ key, endpoint: 'GET /v1/models', ip: '203.0.113.7' });
}
