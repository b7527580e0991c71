import { sql, type Kysely } from 'kysely';

import { loadRules } from '../alerts/load-rules.ts';
import type { Actor } from '../domain/actor.ts';
import { ABSENT_ALERT, acknowledgeAlert, evolveAlert, type AlertState } from '../domain/alert.ts';
import {
  ABSENT_ALERT_RULE,
  decideAlertRule,
  evolveAlertRule,
  isDefaultRule,
  type AlertRule,
  type AlertRuleCommand,
  type AlertRuleState,
} from '../domain/alert-rule.ts';
import { parseEvent, streamOf, type AlertEvent, type AlertRuleEvent } from '../domain/event.ts';
import { isRefusal, refusal, type Refusal } from '../domain/refusals.ts';
import type { JsonValue } from '../lib/canonical-json.ts';
import type { Secret } from '../lib/secret.ts';
import { runCommand, type CommandContext, type Outcome } from '../ledger/run-command.ts';
import { loadStream } from '../ledger/stream.ts';
import type { Tables } from '../postgres/tables.ts';
import { acknowledgeAlertRow } from '../projections/alert-row.ts';
import { writeAlertRuleRow } from '../projections/alert-rule-row.ts';
import { alertIdSchema, conditionOf, createAlertRuleSchema, scopeFault, updateAlertRuleSchema } from './alert-input.ts';
import { requirePermission } from './authorization.ts';
import { parseInput } from './input.ts';
import { visible } from './visible-keys.ts';

export type AlertRuleResult = { readonly ruleId: string };
export type AlertResult = { readonly alertId: string };

/** The mutations of alerts and their rules. Each takes the input as it came, authorizes, parses, and answers an {@link Outcome}. */
export type AlertCommands = {
  createRule(actor: Actor, input: unknown): Promise<Outcome<AlertRuleResult>>;
  /** A default rule becomes one of the organization's own by being changed. */
  updateRule(actor: Actor, input: unknown): Promise<Outcome<AlertRuleResult>>;
  deleteRule(actor: Actor, input: unknown): Promise<Outcome<AlertRuleResult>>;
  /** Needs `alerts:read` too: nobody takes note of what they can't see. */
  acknowledge(actor: Actor, input: unknown): Promise<Outcome<AlertResult>>;
};

/** Rules that an organization can have: each is looked at for each of its keys. */
const MAX_RULES = 100;

const RULE_FOLD = { initial: ABSENT_ALERT_RULE, parse: parseEvent.alertRule, evolve: evolveAlertRule };
const ALERT_FOLD = { initial: ABSENT_ALERT, parse: parseEvent.alert, evolve: evolveAlert };

type Request = { readonly operation: string; readonly input: JsonValue; readonly idempotencyKey: Secret | null };

export function createAlertCommands(context: CommandContext): AlertCommands {
  const { db } = context;

  async function changeRule(
    actor: Actor,
    ruleId: string,
    request: Request,
    toCommand: (state: AlertRuleState) => Promise<AlertRuleCommand | Refusal>,
  ): Promise<Outcome<AlertRuleResult>> {
    const { organizationId } = actor;
    return runCommand<AlertRuleResult>(context, {
      actorId: actor.id,
      ...request,
      decide: async () => {
        const stream = streamOf.alertRule(ruleId);
        const { state, version } = await loadStream<AlertRuleState, AlertRuleEvent>(db, organizationId, stream, RULE_FOLD);
        const command = await toCommand(state);
        if (isRefusal(command)) return command;
        const events = decideAlertRule(state, command);
        if (isRefusal(events)) return events;
        const next = events.reduce(evolveAlertRule, state);
        const effects = next.kind === 'absent' ? [] : [writeAlertRuleRow(next, organizationId, version + events.length)];
        const room = { kind: 'alert rules', organizationId, newId: ruleId, most: MAX_RULES } as const;
        const decidedOn = command.kind === 'create' ? { decidedOn: { streams: [], room } } : {};
        return { streams: [{ organizationId, stream, version, events }], effects, ...decidedOn, result: { ruleId } };
      },
    });
  }

  return {
    async createRule(actor, raw) {
      requirePermission(actor, 'alerts:write');
      const input = parseInput(createAlertRuleSchema, raw);
      if (!input.ok) return input.refusal;
      const { organizationId, kind, enabled = true, category = null, apiKeyId: keyId = null, idempotencyKey, ...fields } = input.value;
      if (organizationId !== actor.organizationId) return refusal('NOT_FOUND', 'There is no such organization', 'organizationId');
      const condition = conditionOf(kind, fields, null);
      if (isRefusal(condition)) return condition;
      const fault = scopeFault(condition, { category, keyId });
      if (fault !== null) return fault;
      const rule: AlertRule = { ruleId: await newId(db), condition, enabled, category, keyId };
      const asked = { organizationId, condition, enabled, category, keyId };
      return changeRule(actor, rule.ruleId, { operation: 'createAlertRule', input: asked, idempotencyKey }, async () => {
        const refused = (await refuseUnknownKey(db, actor, keyId)) ?? (await refuseTooMany(db, organizationId));
        return refused ?? { kind: 'create', rule };
      });
    },
    async updateRule(actor, raw) {
      requirePermission(actor, 'alerts:write');
      const input = parseInput(updateAlertRuleSchema, raw);
      if (!input.ok) return input.refusal;
      const { id, enabled, category, apiKeyId, idempotencyKey, ...fields } = input.value;
      const given = Object.entries({ enabled, category, apiKeyId, ...fields }).filter(([, value]) => value !== undefined);
      const asked: JsonValue = { id, ...(Object.fromEntries(given) as Readonly<Record<string, JsonValue>>) };
      return changeRule(actor, id, { operation: 'updateAlertRule', input: asked, idempotencyKey }, async (state) => {
        const before = await ruleBefore(db, state, actor, id);
        if (isRefusal(before)) return before;
        const condition = conditionOf(before.condition.kind, fields, before.condition);
        if (isRefusal(condition)) return condition;
        const rule: AlertRule = {
          ruleId: id,
          condition,
          enabled: enabled ?? before.enabled,
          category: category === undefined ? before.category : category,
          keyId: apiKeyId === undefined ? before.keyId : apiKeyId,
        };
        const changedKey = rule.keyId === before.keyId ? null : rule.keyId;
        const refused = scopeFault(condition, rule) ?? (await refuseUnknownKey(db, actor, changedKey));
        return refused ?? { kind: 'change', rule };
      });
    },
    async deleteRule(actor, raw) {
      requirePermission(actor, 'alerts:write');
      const input = parseInput(alertIdSchema, raw);
      if (!input.ok) return input.refusal;
      const { id, idempotencyKey } = input.value;
      const isDefault = isDefaultRule(actor.organizationId, id);
      return changeRule(actor, id, { operation: 'deleteAlertRule', input: { id }, idempotencyKey }, async (state) =>
        (await seesRule(db, actor, state)) ? { kind: 'delete', isDefault } : noSuchRule(),
      );
    },
    async acknowledge(actor, raw) {
      requirePermission(actor, 'alerts:write');
      requirePermission(actor, 'alerts:read');
      const input = parseInput(alertIdSchema, raw);
      if (!input.ok) return input.refusal;
      const { id, idempotencyKey } = input.value;
      const { organizationId } = actor;
      return runCommand<AlertResult>(context, {
        actorId: actor.id,
        operation: 'acknowledgeAlert',
        input: { id },
        idempotencyKey,
        decide: async () => {
          const stream = streamOf.alert(id);
          const { state, version } = await loadStream<AlertState, AlertEvent>(db, organizationId, stream, ALERT_FOLD);
          const seen = state.kind === 'absent' || (await seesKey(db, actor, state.alert.keyId));
          const events = acknowledgeAlert(seen ? state : ABSENT_ALERT);
          if (isRefusal(events)) return events;
          const effects = [acknowledgeAlertRow(id, organizationId, actor.id, version + events.length)];
          return { streams: [{ organizationId, stream, version, events }], effects, result: { alertId: id } };
        },
      });
    },
  };
}

/** The rule as it stands, which for an unchanged default rule no event says. */
async function ruleBefore(db: Kysely<Tables>, state: AlertRuleState, actor: Actor, id: string): Promise<AlertRule | Refusal> {
  const { organizationId } = actor;
  if (state.kind === 'set') return (await seesRule(db, actor, state)) ? state.rule : noSuchRule();
  const rules = state.kind === 'absent' && isDefaultRule(organizationId, id) ? await loadRules(db, [organizationId]) : undefined;
  return rules?.get(organizationId)?.find(({ ruleId }) => ruleId === id) ?? noSuchRule();
}

function noSuchRule(): Refusal {
  return refusal('NOT_FOUND', 'There is no such alert rule in your organization', 'id');
}

/** A rule about a key that the caller may not see is not there for them. */
function seesRule(db: Kysely<Tables>, actor: Actor, state: AlertRuleState): Promise<boolean> {
  return seesKey(db, actor, state.kind === 'set' ? state.rule.keyId : null);
}

/** Whether a caller may know of what is about a key; what is about none is for everybody. */
async function seesKey(db: Kysely<Tables>, actor: Actor, keyId: string | null): Promise<boolean> {
  if (keyId === null) return true;
  const { rows } = await sql`SELECT FROM api_keys k WHERE k.id = ${keyId}::uuid AND ${visible(actor)}`.execute(db);
  return rows.length > 0;
}

async function refuseUnknownKey(db: Kysely<Tables>, actor: Actor, keyId: string | null): Promise<Refusal | null> {
  if (keyId === null) return null;
  const { rows } = await sql`SELECT FROM api_keys k WHERE k.id = ${keyId}::uuid AND k.state <> 'deleted' AND ${visible(actor)}`.execute(db);
  return rows.length > 0 ? null : refusal('NOT_FOUND', 'There is no such key in your organization', 'apiKeyId');
}

async function refuseTooMany(db: Kysely<Tables>, organizationId: string): Promise<Refusal | null> {
  const { rows } = await sql<{ n: number }>`
    SELECT count(*)::integer AS n FROM alert_rules WHERE organization_id = ${organizationId}::uuid AND NOT deleted`.execute(db);
  return (rows[0]?.n ?? 0) < MAX_RULES
    ? null
    : refusal('INVALID_INPUT', `An organization can have ${MAX_RULES} alert rules of its own; delete one first`, 'kind');
}

async function newId(db: Kysely<Tables>): Promise<string> {
  const { rows } = await sql<{ id: string }>`SELECT uuidv7() AS id`.execute(db);
  const id = rows[0]?.id;
  if (id === undefined) throw new Error('The database gave no id for a new alert rule.');
  return id;
}
