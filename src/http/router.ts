import type { IncomingMessage, ServerResponse } from 'node:http';

import { refuse, refuseError } from './answer.ts';
import type { Exchange, HttpScope, Route } from './exchange.ts';

/** The label of requests that met no route: what a client asks for must not become a label. */
const NO_ROUTE = 'none';

/**
 * Finds the route of a request by path and method: two look-ups, with nothing made but the exchange. What they don't find is looked for among the routes of any method and of all paths below one. HEAD is answered as GET (Node leaves the body out). Unknown paths are 404, other methods 405 with Allow.
 */
export function createRouter(
  routes: readonly Route[],
  scope: HttpScope,
): (request: IncomingMessage, response: ServerResponse, path: string) => void {
  const byPath = new Map<string, Map<string, Route>>();
  for (const route of routes) {
    const methods = byPath.get(route.path) ?? new Map<string, Route>();
    if (methods.has(route.method)) throw new Error(`Two routes answer ${route.method} ${route.path}.`);
    methods.set(route.method, route);
    if (route.method === 'GET') methods.set('HEAD', route);
    byPath.set(route.path, methods);
  }
  const below = routes.filter(({ path }) => path.endsWith('/*')).map((route) => ({ prefix: route.path.slice(0, -1), route }));

  function broad(path: string, methods: Map<string, Route> | undefined, method: string | undefined): Route | undefined {
    const ofAnyMethod = methods?.get('ANY');
    if (ofAnyMethod !== undefined) return ofAnyMethod;
    return below.find(({ prefix, route }) => path.startsWith(prefix) && (route.method === 'ANY' || route.method === method))?.route;
  }

  function lost(request: IncomingMessage, response: ServerResponse, methods: Map<string, Route> | undefined): void {
    const exchange: Exchange = { request, response, route: NO_ROUTE, startedMs: performance.now(), scope };
    if (methods === undefined) return refuse(exchange, 'NOT_FOUND');
    const allowed = [...methods.keys()].join(', ');
    refuse(exchange, 'METHOD_NOT_ALLOWED', `This path takes ${allowed}.`, { allow: allowed });
  }

  return (request, response, path) => {
    const methods = byPath.get(path);
    const route = methods?.get(request.method ?? '') ?? broad(path, methods, request.method);
    if (route === undefined) return lost(request, response, methods);
    const exchange: Exchange = { request, response, route: route.name, startedMs: performance.now(), scope };
    try {
      const pending = route.handle(exchange);
      if (pending !== undefined) {
        pending.catch((error: unknown) => {
          refuseError(exchange, error);
        });
      }
    } catch (error) {
      refuseError(exchange, error);
    }
  };
}

/** The path of a request target without its query. An absolute target (`GET http://host/path`) is for proxies; it finds no route. */
export function pathOf(target: string): string {
  const query = target.indexOf('?');
  return query === -1 ? target : target.slice(0, query);
}
