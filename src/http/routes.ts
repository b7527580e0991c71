import type { Admission } from '../admission/admission.ts';
import type { Authenticate } from '../identity/authenticate.ts';
import type { Database } from '../postgres/pool.ts';
import type { Route } from './exchange.ts';
import { forwardAuthRoutes } from './forward-auth.ts';
import { healthRoutes } from './health.ts';
import type { Metrics } from './metrics.ts';
import { metricsRoute } from './metrics-route.ts';
import { openApiRoute } from './openapi-route.ts';
import { usageRoute } from './usage.ts';
import { verifyRoute } from './verify.ts';
import { verifyBatchRoute } from './verify-batch.ts';

export type HttpRoutesOptions = {
  readonly admission: Admission;
  readonly authenticate: Authenticate;
  readonly database: Database;
  readonly metrics: Metrics;
  readonly maxUsageBodyBytes: number;
  /** CIDRs whose X-Forwarded-For is believed. */
  readonly trustedProxies: readonly string[];
  /** By how many events the slowest projector is behind the log. */
  readonly projectorLag: () => Promise<number>;
  /** From here on `/readyz` answers 503. */
  readonly maxProjectorLag: number;
};

/** All paths but `/graphql`. */
export function httpRoutes(options: HttpRoutesOptions): readonly Route[] {
  const { admission, authenticate, metrics, maxUsageBodyBytes } = options;
  return [
    verifyRoute({ admission, authenticate, metrics }),
    verifyBatchRoute({ admission, authenticate, metrics }),
    usageRoute({ admission, authenticate, metrics, maxBodyBytes: maxUsageBodyBytes }),
    ...forwardAuthRoutes(options),
    ...healthRoutes(options),
    metricsRoute(metrics),
    openApiRoute(),
  ];
}
