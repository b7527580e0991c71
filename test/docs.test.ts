import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

import { describe, expect, test } from 'vitest';

import { readConfig, type Config } from '../src/config.ts';
import { defaultConditions } from '../src/domain/alert-defaults.ts';
import { ALERT_KIND_NAMES } from '../src/domain/alert-schemas.ts';
import { DEFAULT_SETTINGS } from '../src/domain/organization-settings.ts';
import { ALL_PERMISSIONS, PERMISSIONS, permissionsOf, ROLES } from '../src/domain/permissions.ts';
import { PLAN_NAMES, PLANS, type PlanName } from '../src/domain/plan.ts';
import { REQUEST_REFUSALS, VERIFICATION_REFUSALS } from '../src/domain/refusals.ts';
import { createMetrics } from '../src/http/metrics.ts';

const read = (path: string) => readFile(fileURLToPath(new URL(`../${path}`, import.meta.url)), 'utf8');

type Row = readonly string[];
type DefaultNumbers = {
  readonly percentages?: readonly number[];
  readonly days?: readonly number[];
  readonly minRequests: number | null;
};

/** The cells of the first table below a marker or heading. */
function tableBelow(text: string, marker: string): readonly Row[] {
  const at = text.indexOf(marker);
  if (at === -1) throw new Error(`there is no ${marker}`);
  const lines = text.slice(at).split('\n');
  const first = lines.findIndex((line) => line.startsWith('|'));
  const length = lines.slice(first).findIndex((line) => !line.startsWith('|'));
  return lines.slice(first + 2, first + length).map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
}

const code = (text: string) => `\`${text}\``;

describe('the docs say what the code says', () => {
  test('permissions.md: who may do what', async () => {
    expect(tableBelow(await read('docs/permissions.md'), '<!-- printed from src/domain/permissions.ts -->')).toEqual(
      ALL_PERMISSIONS.map((permission) => [
        code(permission),
        PERMISSIONS[permission],
        ...ROLES.map((role) => (permissionsOf(role).includes(permission) ? 'yes' : '')),
      ]),
    );
  });

  test('organizations.md: the plans', async () => {
    const shown = (cap: number | null) => (cap === null ? 'no cap' : cap.toLocaleString('en'));
    const rows = tableBelow(await read('docs/organizations.md'), '## Plans');
    expect(rows.map(([name]) => name)).toEqual([...PLAN_NAMES]);
    for (const [name = '', minute = '', second = ''] of rows) {
      const caps = PLANS[name as PlanName];
      expect([minute, second].map((text) => text.replace('as agreed, no cap by default', 'no cap'))).toEqual([
        shown(caps.requestsPerMinute),
        shown(caps.requestsPerSecond),
      ]);
    }
  });

  test('data-plane.md: the codes of a verification, with status and message', async () => {
    const refusals = Object.entries(VERIFICATION_REFUSALS).map(([name, { httpStatus, message }]) => [
      code(name),
      String(httpStatus),
      message,
    ]);
    expect(tableBelow(await read('docs/data-plane.md'), '<!-- printed from src/domain/refusals.ts -->')).toEqual([
      [code('VALID'), '200', ''],
      ...refusals,
    ]);
  });

  test('data-plane.md: the codes of a request that could not be answered', async () => {
    const refusals = Object.entries(REQUEST_REFUSALS).map(([name, { httpStatus, message }]) => [code(name), String(httpStatus), message]);
    expect(tableBelow(await read('docs/data-plane.md'), '<!-- printed from src/domain/refusals.ts: requests -->')).toEqual(refusals);
  });

  test('operations.md: every setting that is read, and no other', async () => {
    const named = [...(await read('src/config.ts')).matchAll(/(?:\b(?:text|integer|list|postgresUrl)\('|\bname === ')([A-Z_]+)'/g)].map(
      ([, name = '']) => name,
    );
    const rows = tableBelow(await read('docs/operations.md'), '## Settings');
    expect(new Set(rows.map(([name]) => name))).toEqual(new Set(named.map(code)));
    expect(named.length).toBeGreaterThan(15);
  });

  test('operations.md: the defaults', async () => {
    const rows = new Map(
      tableBelow(await read('docs/operations.md'), '## Settings').map(([name = '', fallback = '']) => [name.replaceAll('`', ''), fallback]),
    );
    const defaults = readConfig({});
    const oidc = readConfig({ OIDC_ISSUER: 'https://id.example.com', OIDC_AUDIENCE: 'keyledger' }).oidc;
    const settings: Readonly<Record<string, unknown>> = { ...defaults, ...oidc } satisfies Partial<Config>;
    for (const [variable, fallback] of rows) {
      const value = /^`(.*)`$/.exec(fallback)?.[1];
      const field = variable
        .replace('OIDC_', '')
        .toLowerCase()
        .replaceAll(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
      if (value !== undefined) expect([variable, String(settings[field])]).toEqual([variable, value]);
      else if (fallback === 'none') expect([variable, settings[field]]).toEqual([variable, []]);
    }
  });

  test('operations.md: every metric of our own, and no other', async () => {
    const metrics = createMetrics({
      pool: { totalCount: 0, idleCount: 0, waitingCount: 0 },
      admission: { queued: () => 0, inFlight: () => 0, connected: () => true },
      positions: () => Promise.resolve({ head: 1n, projectors: [{ name: 'usage', position: 1n }] }),
      lags: () => Promise.resolve({ alerts: [], deliveries: { healthy: 0, troubled: 0 } }),
      subscriptions: () => 0,
    });
    const names = [...(await metrics.text()).matchAll(/^# TYPE (keyledger_\w+) /gm)].map(([, name = '']) => code(name));
    const rows = tableBelow(await read('docs/operations.md'), '## Watching it');
    expect(new Set(rows.map(([name]) => name))).toEqual(new Set(names));
    expect(names.length).toBeGreaterThan(10);
  });

  test('operations.md: the roles are those that compose.yml makes', async () => {
    const sql = /```sql\n([^]*?)```/.exec(await read('docs/operations.md'))?.[1] ?? '';
    const made = /<<'SQL'\n([^]*?)SQL\n/.exec(await read('docker/postgres-logins.sh'))?.[1] ?? '';
    expect(sql.replaceAll("'…'", '<password>')).toBe(made.replaceAll(/:'\w+'/g, '<password>'));
    expect(sql).toContain('CREATE ROLE keyledger_server NOLOGIN;');
  });

  test('alerts.md has a row for each kind of rule, with its default', async () => {
    const rows = tableBelow(await read('docs/alerts.md'), '## The rules');
    expect(rows.map(([kind]) => kind)).toEqual(ALERT_KIND_NAMES.map((kind) => `\`${kind}\``));
    for (const { condition } of defaultConditions(DEFAULT_SETTINGS.alertDefaults)) {
      const { percentages = [], days = [], minRequests } = { minRequests: null, ...condition } as DefaultNumbers;
      const row = rows.find(([kind]) => kind === `\`${condition.kind}\``);
      for (const number of [...percentages, ...days, minRequests].filter((value) => value !== null))
        expect(row?.[3]).toMatch(new RegExp(`\\b${number}\\b`));
    }
  });

  test('data-plane.md: windows and sub-buckets are those of the migration', async () => {
    const migration = await read('migrations/0004_admission.sql');
    expect(migration).toMatch(/minute {3}60 s of {2}1 s {6}day {6}24 h of 30 min {6}week {4}7 d of 6 h {6}month {3}30 d of 6 h/);
    expect(
      tableBelow(await read('docs/data-plane.md'), '## How exact the windows are').map(([, length, bucket]) => `${length} of ${bucket}`),
    ).toEqual(['60 s of 1 s', '24 h of 30 min', '7 d of 6 h', '30 d of 6 h']);
  });
});
