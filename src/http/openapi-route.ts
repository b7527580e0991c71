import { answer } from './answer.ts';
import type { Route } from './exchange.ts';
import { openApiDocument } from './openapi.ts';

/** `GET /openapi.json`: the same text as schema/openapi.json. */
export function openApiRoute(): Route {
  const body = `${JSON.stringify(openApiDocument(), null, 2)}\n`;
  return {
    method: 'GET',
    path: '/openapi.json',
    name: 'openapi',
    handle(exchange) {
      answer(exchange, 200, body, { 'cache-control': 'public, max-age=300', 'access-control-allow-origin': '*' });
    },
  };
}
