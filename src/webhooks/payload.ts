import { canonicalJson, type JsonValue } from '../lib/canonical-json.ts';
import { screamingSnake } from '../lib/screaming-snake.ts';

export type DeliveredEvent = {
  readonly position: bigint;
  readonly type: string;
  readonly stream: string;
  readonly actorId: string;
  readonly recordedAt: Date;
  /** As it stands in the log. */
  readonly data: JsonValue;
};

/**
 * The body of a message, the same bytes at each attempt: `type`, `timestamp` and `data` as Standard Webhooks has them, and in `data` the fields of a
 * LedgerEvent as GraphQL shows them.
 */
export function payloadOf(event: DeliveredEvent, subjectIdOf: (stream: string) => string): string {
  return canonicalJson({
    type: screamingSnake(event.type),
    timestamp: event.recordedAt.toISOString(),
    data: {
      position: String(event.position),
      subjectId: subjectIdOf(event.stream),
      actorId: event.actorId,
      data: event.data,
    },
  });
}
