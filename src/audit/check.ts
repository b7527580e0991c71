import { headPosition } from '../ledger/append.ts';
import type { Database } from '../postgres/pool.ts';
import { checkBalances } from './check-balances.ts';
import { checkPositions, checkVersions } from './check-log.ts';
import { checkPersons } from './check-persons.ts';
import { checkState } from './check-state.ts';
import { checkUsage } from './check-usage.ts';
import type { CheckStep, Finding } from './finding.ts';

export type CheckProgress = {
  readonly step: string;
  readonly done: number;
  readonly total: number;
};

export type CheckReport = {
  /** The log was checked up to here. */
  readonly head: bigint;
  readonly findings: number;
  readonly interrupted: boolean;
};

export type CheckOptions = {
  readonly onFinding: (finding: Finding) => void;
  readonly onProgress: (progress: CheckProgress) => void;
  readonly signal?: AbortSignal;
};

type Step = readonly [string, (database: Database, head: bigint, step: CheckStep) => Promise<void>];

const STEPS: readonly Step[] = [
  ['positions', checkPositions],
  ['versions of streams', (database, _, step) => checkVersions(database, step)],
  ['state and verifiers', (database, _, step) => checkState(database, step)],
  ['personal keys', (database, _, step) => checkPersons(database, step)],
  ['usage', (database, _, step) => checkUsage(database, step)],
  ['balances', (database, _, step) => checkBalances(database, step)],
];

/**
 * Compares every read model with the fold of the log, and the log with its own rules, while the service runs: each statement compares what one snapshot
 * holds, and the log is looked at up to the head of the beginning. Findings are data; it changes nothing. Use a connection without a statement timeout.
 */
export async function check(database: Database, { onFinding, onProgress, signal }: CheckOptions): Promise<CheckReport> {
  const head = await headPosition(database.kysely);
  let findings = 0;
  for (const [name, run] of STEPS) {
    if (signal?.aborted === true) break;
    await run(database, head, {
      signal,
      report: (finding) => {
        findings++;
        onFinding(finding);
      },
      progress: (done, total) => {
        onProgress({ step: name, done, total });
      },
    });
  }
  return { head, findings, interrupted: signal?.aborted === true };
}
