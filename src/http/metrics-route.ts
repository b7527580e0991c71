import { answer } from './answer.ts';
import type { Route } from './exchange.ts';
import type { Metrics } from './metrics.ts';

/** `GET /metrics`, open to whoever reaches the port: it names no tenant and no key. */
export function metricsRoute(metrics: Metrics): Route {
  return {
    method: 'GET',
    path: '/metrics',
    name: 'metrics',
    async handle(exchange) {
      answer(exchange, 200, await metrics.text(), { 'content-type': metrics.contentType });
    },
  };
}
