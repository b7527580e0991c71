import { Registry } from 'prom-client';
import { expect, it } from 'vitest';

import { registerAnswerCounts } from '../../src/http/answer-counts.ts';

it('tells of answers and of their durations as cumulative buckets, however often it is scraped', async () => {
  const registry = new Registry();
  const answered = registerAnswerCounts(registry);
  answered('verify', 200, 1); // a bound belongs to its bucket
  answered('verify', 200, 1.5);
  answered('verify', 400, 6000);
  answered('usage', 200, 30);
  await registry.metrics();
  const text = await registry.metrics();
  expect(text).toContain('# TYPE keyledger_http_requests_total counter');
  expect(text).toContain('# TYPE keyledger_http_request_duration_seconds histogram');
  const lines = text.split('\n').filter((line) => line.startsWith('keyledger'));
  expect(lines.filter((line) => !line.includes('_bucket'))).toEqual([
    'keyledger_http_requests_total{route="verify",status="200"} 2',
    'keyledger_http_requests_total{route="verify",status="400"} 1',
    'keyledger_http_requests_total{route="usage",status="200"} 1',
    'keyledger_http_request_duration_seconds_sum{route="verify"} 6.0025',
    'keyledger_http_request_duration_seconds_count{route="verify"} 3',
    'keyledger_http_request_duration_seconds_sum{route="usage"} 0.03',
    'keyledger_http_request_duration_seconds_count{route="usage"} 1',
  ]);
  const buckets = (route: string) => lines.filter((line) => line.includes(`_bucket{`) && line.includes(`route="${route}"`));
  expect(buckets('verify').map((line) => Number(line.split(' ').at(-1)))).toEqual([1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3]);
  expect(buckets('verify')[1]).toBe('keyledger_http_request_duration_seconds_bucket{le="0.0025",route="verify"} 2');
  expect(buckets('verify').at(-1)).toBe('keyledger_http_request_duration_seconds_bucket{le="+Inf",route="verify"} 3');
  expect(buckets('usage').map((line) => Number(line.split(' ').at(-1)))).toEqual([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]);
});
