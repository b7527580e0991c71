import { check } from '../audit/check.ts';
import { EXIT, parseArguments, type CliCommand } from './command.ts';
import { openLedger } from './open-ledger.ts';
import { groupDigits } from '../lib/group-digits.ts';
import { createProgressLine } from './progress.ts';

export const checkCommand: CliCommand = {
  name: 'check',
  summary: 'compare everything that is derived with the log',
  help: `keyledger check [--json]

Folds the log again and compares: its positions, moments and versions with their rules; organizations, members, access tokens and keys row by row; the
keys' verifiers with the fingerprints in the log; the counters of usage with the sums of the usage events; prepaid balances with funds and costs. Changes nothing, and can run while servers do.
Exit code 0: nothing found; 1: something is not as the log says, or the check was stopped. keyledger rebuild mends what is derived; what is wrong
in the log itself, or a verifier that was exchanged, is a matter for an auditor.

  --json   one JSON object a finding, and one for the end`,
  run: async (args, io) => {
    const { values } = parseArguments(args, { json: { type: 'boolean' } }, { min: 0, max: 0 });
    const ledger = await openLedger(io, { create: false });
    const progress = createProgressLine(io);
    try {
      const report = await check(ledger.database, {
        signal: io.signal,
        onProgress: ({ step, done, total }) => progress.show(`${step}: ${groupDigits(done)} of ${groupDigits(total)}`),
        onFinding: (finding) => {
          progress.end();
          if (values.json === true) io.out(JSON.stringify(finding));
          else io.out(`${finding.kind}  ${finding.subject}\n  expected  ${finding.expected}\n  found     ${finding.found}`);
        },
      });
      progress.end();
      if (values.json === true)
        io.out(JSON.stringify({ head: String(report.head), findings: report.findings, interrupted: report.interrupted }));
      else if (report.findings > 0) io.out(`${groupDigits(report.findings)} found, in the log up to position ${report.head}.`);
      else if (!report.interrupted) io.out(`Nothing found: all is as the log says, up to position ${report.head}.`);
      if (report.interrupted) io.err('Interrupted before everything was compared. A check begins anew each time: run it again.');
      return report.findings > 0 || report.interrupted ? EXIT.failed : EXIT.done;
    } finally {
      progress.end();
      await ledger.close();
    }
  },
};
