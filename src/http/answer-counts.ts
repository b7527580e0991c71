import { Counter, type Histogram, type Registry } from 'prom-client';

/** Seconds. A verification takes one to ten milliseconds, a large report up to seconds. */
const BOUNDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5];
const DURATION = 'keyledger_http_request_duration_seconds';

type RouteCounts = {
  readonly statuses: Map<number, number>;
  /** Answers within each bound and above the one before; the last one is above all of them. */
  readonly within: number[];
  seconds: number;
};

/**
 * Counts answers and how long they took, by route. In plain numbers that prom-client reads when it is scraped: to find a labelled child of its histogram and the bucket in it takes four hundredths of
 * the server's time, on the path of every request.
 */
export function registerAnswerCounts(registry: Registry): (route: string, status: number, durationMs: number) => void {
  const routes = new Map<string, RouteCounts>();
  const requests = new Counter({
    name: 'keyledger_http_requests_total',
    help: 'Answered HTTP requests',
    labelNames: ['route', 'status'],
    registers: [registry],
    collect() {
      requests.reset();
      for (const [route, { statuses }] of routes)
        for (const [status, count] of statuses) requests.inc({ route, status: String(status) }, count);
    },
  });
  // What a registry asks of any metric; its type names prom-client's own four alone.
  registry.registerMetric({
    name: DURATION,
    get: () =>
      Promise.resolve({
        name: DURATION,
        help: 'From the head of a request to its answer',
        type: 'histogram',
        aggregator: 'sum',
        values: [...routes].flatMap(([route, counts]) => durationsOf(route, counts)),
      }),
  } as unknown as Histogram);

  return (route, status, durationMs) => {
    let counts = routes.get(route);
    if (counts === undefined)
      routes.set(route, (counts = { statuses: new Map(), within: Array.from({ length: BOUNDS.length + 1 }, () => 0), seconds: 0 }));
    counts.statuses.set(status, (counts.statuses.get(status) ?? 0) + 1);
    const seconds = durationMs / 1000;
    counts.seconds += seconds;
    let bucket = 0;
    while (bucket < BOUNDS.length && seconds > (BOUNDS[bucket] ?? 0)) bucket++;
    counts.within[bucket] = (counts.within[bucket] ?? 0) + 1;
  };
}

/** A histogram's series as the text format has them: its buckets are cumulative. */
function durationsOf(route: string, { within, seconds }: RouteCounts) {
  let count = 0;
  const buckets = within.map((answers, index) => ({
    metricName: `${DURATION}_bucket`,
    labels: { le: BOUNDS[index] ?? '+Inf', route },
    value: (count += answers),
  }));
  return [
    ...buckets,
    { metricName: `${DURATION}_sum`, labels: { route }, value: seconds },
    { metricName: `${DURATION}_count`, labels: { route }, value: count },
  ];
}
