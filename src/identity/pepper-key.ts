import { inspect } from 'node:util';

/** A pepper as the settings give it: an id and at least 32 secret bytes, which no print, log or JSON of it shows. */
export class PepperKey {
  readonly id: string;
  readonly #key: Buffer;

  constructor(id: string, key: Buffer) {
    this.id = id;
    this.#key = key;
  }

  get key(): Buffer {
    return this.#key;
  }

  toString(): string {
    return `${this.id}:[redacted]`;
  }

  toJSON(): string {
    return this.toString();
  }

  [inspect.custom](): string {
    return this.toString();
  }
}

/**
 * Parses `id:base64,id:base64`, the first being the current one. Base64 or base64url. Gives what is wrong, in words that show no secret,
 * instead of throwing.
 */
export function parsePeppers(text: string): { readonly peppers: readonly PepperKey[] } | { readonly faults: readonly string[] } {
  const faults: string[] = [];
  const peppers: PepperKey[] = [];
  const seen = new Set<string>();
  for (const [index, entry] of text.split(',').entries()) {
    const [, id, encoded] = /^\s*([A-Za-z0-9_-]{1,32}):([A-Za-z0-9+/_-]+={0,2})\s*$/.exec(entry) ?? [];
    if (id === undefined || encoded === undefined) {
      faults.push(`entry ${index + 1} is not of the form id:base64 with an id of 1 to 32 of A-Z a-z 0-9 _ -`);
      continue;
    }
    const key = Buffer.from(encoded, 'base64');
    if (seen.has(id)) faults.push(`the id ${id} stands there twice`);
    else if (key.length < 32) faults.push(`${id} has ${key.length} bytes, it needs 32 at least`);
    else peppers.push(new PepperKey(id, key));
    seen.add(id);
  }
  return faults.length > 0 ? { faults } : { peppers };
}
