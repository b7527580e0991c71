import { inspect } from 'node:util';

const REDACTED = '[redacted]';

/**
 * A value that must not reach a log line, an error, an event or a metric: printing, serialising and inspecting it give `[redacted]`.
 * Only {@link Secret.reveal} gives the text; every call of it is a place to review.
 */
export class Secret {
  readonly #value: string;

  constructor(value: string) {
    this.#value = value;
  }

  reveal(): string {
    return this.#value;
  }

  toString(): string {
    return REDACTED;
  }

  toJSON(): string {
    return REDACTED;
  }

  [inspect.custom](): string {
    return REDACTED;
  }
}
