import type { Scenario } from '../bench.ts';
import { alerts } from './alerts.ts';
import { alone } from './alone.ts';
import { bigLog } from './big-log.ts';
import { cold } from './cold.ts';
import { graphql } from './graphql.ts';
import { ingest } from './ingest.ts';
import { live } from './live.ts';
import { statistics } from './statistics.ts';
import { storage } from './storage.ts';
import { twoProcesses } from './two-processes.ts';
import { verifyHot } from './verify-hot.ts';
import { verifySpread } from './verify-spread.ts';

export const SCENARIOS: readonly Scenario[] = [
  verifySpread,
  verifyHot,
  alone,
  twoProcesses,
  cold,
  graphql,
  ingest,
  storage,
  bigLog,
  statistics,
  alerts,
  live,
];
