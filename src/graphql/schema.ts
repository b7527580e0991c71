import type { GraphQLSchema } from 'graphql';

import { addAccessToken } from './access-token.ts';
import { addActor } from './actor.ts';
import { addAlert } from './alert.ts';
import { addAlertMutations } from './alert-mutations.ts';
import { addAlertStream } from './alert-stream.ts';
import { addApiKeyMutations } from './api-key-mutations.ts';
import { addApiKey } from './api-key.ts';
import { addBalance } from './balance.ts';
import { createBuilder } from './builder.ts';
import { addEnums } from './enums.ts';
import { addKeyStreams } from './key-streams.ts';
import { addLedgerEvent } from './ledger-event.ts';
import { addMember } from './member.ts';
import { addRefusalTypes } from './mutation-result.ts';
import { addOrganizationMutations } from './organization-mutations.ts';
import { addOrganizationSettings } from './organization-settings.ts';
import { addOrganization } from './organization.ts';
import { addScalars } from './scalars.ts';
import { createTypeRefs } from './type-refs.ts';
import { addUsage } from './usage.ts';
import { addVerification } from './verification.ts';
import { addViewer } from './viewer.ts';
import { addWebhookMutations } from './webhook-mutations.ts';
import { addWebhook } from './webhook.ts';

/** The schema of `/graphql`, of which schema/schema.graphql is the printed form. It holds no state: everything comes with the context. */
export function buildSchema(): GraphQLSchema {
  const builder = createBuilder();
  builder.queryType();
  builder.mutationType();
  builder.subscriptionType();
  addScalars(builder);
  const enums = addEnums(builder);
  const types = createTypeRefs(builder);
  const refusals = addRefusalTypes(builder, enums);
  const actor = addActor(builder, enums, types);
  const events = addLedgerEvent(builder, enums, types);
  const usage = addUsage(builder, enums, types);
  addViewer(builder, enums, types);
  const alerts = addAlert(builder, enums, types, actor);
  addAlertMutations(builder, enums, types, refusals);
  addAlertStream(builder, types);
  addApiKey(builder, enums, types, actor, events, usage, alerts);
  addApiKeyMutations(builder, enums, types, refusals);
  addKeyStreams(builder, enums, types);
  const settings = addOrganizationSettings(builder, types, refusals);
  addOrganization(builder, enums, types, events, usage, settings, alerts);
  addOrganizationMutations(builder, types, refusals);
  addBalance(builder, types, refusals);
  addMember(builder, enums, types, refusals);
  addAccessToken(builder, types, actor, refusals);
  addVerification(builder, enums, refusals);
  addWebhook(builder, enums, types, actor);
  addWebhookMutations(builder, enums, types, refusals);
  return builder.toSchema();
}
