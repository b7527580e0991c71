// A process of its own: sends what it is told to over loopback, counts and times the answers. Speaks over the IPC channel and ends with it.
import { createHistogram } from 'node:perf_hooks';

import { openHttpConnection, type HttpConnection } from './http-connection.ts';
import type { FromGenerator, LoadPlan, LoadResult } from './plan.ts';

/** What is still under way when the time is over may take so long. */
const DRAIN_MS = 15_000;

function tell(message: FromGenerator): void {
  process.send?.(message);
}

function run(plan: LoadPlan): Promise<LoadResult> {
  const latency = createHistogram({ lowest: 1, highest: 60_000_000, figures: 3 });
  const expected = Buffer.from(plan.expect, 'latin1');
  const startMs = performance.now();
  const measureFrom = startMs + plan.warmUpMs;
  const measureTo = measureFrom + plan.measureMs;
  const { promise, resolve } = Promise.withResolvers<LoadResult>();
  const connections: HttpConnection[] = [];
  let requests = 0;
  let succeeded = 0;
  let failed = 0;
  let lost = 0;
  let underWay = 0;
  let lastMs = startMs;
  let sampleFailure: string | null = null;

  const feeds = plan.targets.map(({ port, requests: texts }) => {
    const bodies = texts.map((text) => Buffer.from(text, 'utf8'));
    let next = 0;
    return {
      port,
      next(): Buffer | undefined {
        if (plan.once && next >= bodies.length) return undefined;
        return bodies[next++ % bodies.length];
      },
    };
  });

  function open({ port, next }: (typeof feeds)[number], index: number): void {
    let sentMs = 0;
    let turn = 0;
    /** `fromMs` is when its sender wanted it sent: a request that had to wait for the answer to an earlier one has waited as its sender would have. */
    const send = (nowMs: number, fromMs: number): void => {
      const request = nowMs < measureTo ? next() : undefined;
      if (request === undefined) return finishIfIdle();
      underWay++;
      sentMs = fromMs;
      connection.send(request);
    };
    const proceed = (nowMs: number): void => {
      if (plan.perSecond === undefined) return send(nowMs, nowMs);
      const dueMs = startMs + ((turn++ * plan.connections + index) * 1000) / plan.perSecond;
      if (dueMs <= nowMs) return send(nowMs, dueMs);
      setTimeout(() => {
        const atMs = performance.now();
        send(atMs, atMs);
      }, dueMs - nowMs);
    };
    const connection = openHttpConnection(
      port,
      (answer) => {
        const nowMs = performance.now();
        underWay--;
        lastMs = nowMs;
        if (answer.includes(expected)) succeeded++;
        else {
          failed++;
          sampleFailure ??= answer.toString('utf8').slice(0, 600);
        }
        if (plan.once || (nowMs >= measureFrom && nowMs < measureTo)) {
          requests++;
          latency.record(Math.max(1, Math.round((nowMs - sentMs) * 1000)));
        }
        proceed(nowMs);
      },
      () => {
        underWay--;
        lost++;
        proceed(performance.now());
      },
    );
    connections.push(connection);
    proceed(performance.now());
  }

  function finishIfIdle(): void {
    if (underWay === 0) finish();
  }

  let toldMeasured = false;
  function tellMeasured(): void {
    if (!toldMeasured) tell({ kind: 'measured' });
    toldMeasured = true;
  }

  let finished = false;
  const timers = [
    setTimeout(() => tell({ kind: 'measuring' }), plan.warmUpMs),
    setTimeout(tellMeasured, plan.warmUpMs + plan.measureMs),
    setTimeout(finish, plan.warmUpMs + plan.measureMs + DRAIN_MS),
  ];
  function finish(): void {
    if (finished) return;
    finished = true;
    for (const timer of timers) clearTimeout(timer);
    tellMeasured();
    for (const connection of connections) connection.close();
    const seconds = plan.once ? (lastMs - startMs) / 1000 : plan.measureMs / 1000;
    resolve({
      requests,
      seconds,
      succeeded,
      failed,
      lost: lost + underWay,
      sampleFailure,
      p50Us: latency.percentile(50),
      p99Us: latency.percentile(99),
      maxUs: requests === 0 ? 0 : latency.max,
    });
  }

  for (let index = 0; index < plan.connections; index++) {
    const feed = feeds[index % feeds.length];
    if (feed !== undefined) open(feed, index);
  }
  return promise;
}

process.on('message', (plan: LoadPlan) => {
  void run(plan).then((result) => tell({ kind: 'done', result }));
});
process.once('disconnect', () => process.exit(0));
// Ctrl-C in a terminal reaches the whole group; the bench ends its children itself.
process.on('SIGINT', () => undefined);
