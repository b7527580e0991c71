import { setImmediate as nextTurn } from 'node:timers/promises';

import type { Admission, UsageItem } from '../admission/admission.ts';
import { createPlainUsageItemReader } from '../admission/plain-usage-item.ts';
import { createUsageItemSchema, MAX_USAGE_ITEMS } from '../admission/usage-input.ts';
import { ForbiddenError } from '../commands/authorization.ts';
import { describeFaults } from '../commands/input.ts';
import { allows } from '../domain/actor.ts';
import type { Authenticate } from '../identity/authenticate.ts';
import { answer, refuse, refuseError } from './answer.ts';
import { authenticated } from './authenticated.ts';
import type { Exchange, RequestHead, Route } from './exchange.ts';
import { bodyType, JSON_TYPE, NDJSON_TYPES, REFUSED } from './media-type.ts';
import type { DataPlaneMetrics } from './metrics.ts';
import { readBody } from './read-body.ts';
import { usageDocuments } from './usage-documents.ts';

const TYPES = [NDJSON_TYPES[0], JSON_TYPE, ...NDJSON_TYPES.slice(1)];
/** Items that are parsed in one turn of the event loop, about a millisecond: verifications don't wait for a report. */
const ITEMS_A_TURN = 1000;

export type UsageRouteOptions = {
  readonly admission: Admission;
  readonly authenticate: Authenticate;
  readonly metrics: DataPlaneMetrics;
  readonly maxBodyBytes: number;
  readonly clock?: () => Date;
};

/** Whose usage is reported, and in which media type. */
type Reporter = { readonly organizationId: string; readonly type: string | undefined };

/** `POST /v1/usage`: all of a report is recorded, or nothing of it. The caller is known before anything is made of the body, and before a large one is read. */
export function usageRoute({ admission, authenticate, metrics, maxBodyBytes, clock = () => new Date() }: UsageRouteOptions): Route {
  const schema = createUsageItemSchema(clock);
  const readPlain = createPlainUsageItemReader(clock);

  async function record(exchange: Exchange<RequestHead>, { type, organizationId }: Reporter, body: Buffer): Promise<void> {
    const documents = usageDocuments(body.toString(), type);
    if (!documents.ok) return refuseItem(exchange, documents.message, documents.index);
    const { values } = documents;
    if (values.length === 0) return refuse(exchange, 'BAD_USER_INPUT', 'The body holds no items; send one at least.');
    if (values.length > MAX_USAGE_ITEMS) {
      return refuse(exchange, 'PAYLOAD_TOO_LARGE', `The body holds ${values.length} items; send ${MAX_USAGE_ITEMS} at most at once.`);
    }
    const items: UsageItem[] = [];
    for (const [index, value] of values.entries()) {
      if (index % ITEMS_A_TURN === ITEMS_A_TURN - 1) await nextTurn();
      const plain = readPlain(value);
      if (plain !== null) {
        items.push(plain);
        continue;
      }
      const parsed = schema.safeParse(value);
      if (!parsed.success) {
        const { message, field } = describeFaults(parsed.error);
        return refuseItem(exchange, `Item ${index}: ${message}. Nothing was recorded.`, index, field);
      }
      items.push(parsed.data);
    }
    const outcome = await admission.recordUsage(organizationId, items);
    switch (outcome.kind) {
      case 'recorded': {
        const { accepted, duplicates, position } = outcome;
        metrics.usageRecorded(accepted, duplicates);
        return answer(exchange, 200, JSON.stringify({ accepted, duplicates, position: position.toString() }));
      }
      case 'bad-item':
        return refuseItem(exchange, `Item ${outcome.index}: ${outcome.message}. Nothing was recorded.`, outcome.index);
      default:
        return outcome satisfies never;
    }
  }

  /** Null where the exchange was answered. */
  async function reporterOf(exchange: Exchange<RequestHead>): Promise<Reporter | null> {
    const type = bodyType(exchange, TYPES);
    if (type === REFUSED) return null;
    const actor = await authenticated(exchange, authenticate);
    if (actor === null) return null;
    if (!allows(actor, 'usage:write')) throw new ForbiddenError('usage:write');
    return { organizationId: actor.organizationId, type };
  }

  return {
    method: 'POST',
    path: '/v1/usage',
    name: 'usage',
    async handle(exchange) {
      const reporter = await reporterOf(exchange);
      if (reporter === null) return;
      readBody(exchange, maxBodyBytes, (body) => {
        record(exchange, reporter, body).catch((error: unknown) => {
          refuseError(exchange, error);
        });
      });
    },
    plain: {
      maxBodyBytes,
      async handle(exchange, body) {
        const reporter = await reporterOf(exchange);
        if (reporter !== null) await record(exchange, reporter, body);
      },
    },
  };
}

function refuseItem(exchange: Exchange<RequestHead>, message: string, index?: number, field?: string): void {
  refuse(exchange, 'BAD_USER_INPUT', message, undefined, {
    ...(index === undefined ? {} : { index }),
    ...(field === undefined ? {} : { field }),
  });
}
