/** What JSON can say. `undefined`, `bigint`, dates and class instances are not among it. */
export type JsonValue = null | boolean | number | string | readonly JsonValue[] | { readonly [name: string]: JsonValue };

/** Deeper nesting is refused: it comes from a cycle or an attack, and would end in a stack overflow instead of a sentence. */
const MAX_DEPTH = 256;

/**
 * The one text of a JSON value, as of RFC 8785 (JSON Canonicalization Scheme): no white space, members sorted by the UTF-16 code units of
 * their names, numbers and strings written as ECMAScript writes them. The event log hashes these bytes (as UTF-8), so two equal
 * values must never give two texts.
 *
 * Throws a TypeError that names the path (never the value) for what has no canonical form: NaN and infinities, lone surrogates in
 * strings and names, `undefined`, functions, symbols, bigints, holes in arrays, objects that are not plain, more than 256 levels.
 */
export function canonicalJson(value: JsonValue): string {
  return write(value, [], 0);
}

/** `path` is one array for the whole walk, pushed and popped: it is only read when something is refused. */
function write(value: unknown, path: (string | number)[], depth: number): string {
  if (depth > MAX_DEPTH) {
    throw new TypeError(`no canonical JSON: nested more than ${MAX_DEPTH} levels deep`);
  }
  switch (typeof value) {
    case 'string':
      return writeString(value, path);
    case 'number':
      if (!Number.isFinite(value)) {
        throw refusal('a number that is not finite', path);
      }
      // RFC 8785, 3.2.2.3: ECMAScript's Number::toString. It writes -0 as 0, as the RFC wants.
      return String(value);
    case 'boolean':
      return value ? 'true' : 'false';
    case 'object':
      if (value === null) {
        return 'null';
      }
      return Array.isArray(value) ? writeArray(value, path, depth) : writeObject(value, path, depth);
    case 'bigint':
    case 'function':
    case 'symbol':
    case 'undefined':
      throw refusal(`a value of type ${typeof value}`, path);
  }
}

function writeString(text: string, path: readonly (string | number)[]): string {
  if (!text.isWellFormed()) {
    throw refusal('a lone surrogate', path);
  }
  // RFC 8785, 3.2.2.2 is ECMAScript's QuoteJSONString, and that is what this calls.
  return JSON.stringify(text);
}

function writeArray(items: readonly unknown[], path: (string | number)[], depth: number): string {
  let text = '[';
  // By index: iteration helpers would skip a hole or hide it.
  for (let index = 0; index < items.length; index += 1) {
    path.push(index);
    text += (index === 0 ? '' : ',') + write(items[index], path, depth + 1);
    path.pop();
  }
  return `${text}]`;
}

function writeObject(object: object, path: (string | number)[], depth: number): string {
  const prototype: unknown = Object.getPrototypeOf(object);
  if (prototype !== Object.prototype && prototype !== null) {
    throw refusal('an object that is not plain', path);
  }
  // Without a comparator, sort compares UTF-16 code units: exactly RFC 8785, 3.2.3. A locale would not.
  const names = Object.keys(object).toSorted();
  let text = '{';
  for (const [index, name] of names.entries()) {
    path.push(name);
    text += `${index === 0 ? '' : ','}${writeString(name, path)}:${write((object as Record<string, unknown>)[name], path, depth + 1)}`;
    path.pop();
  }
  return `${text}}`;
}

function refusal(what: string, path: readonly (string | number)[]): TypeError {
  const pointer = path.map((step) => `/${String(step).toWellFormed()}`).join('');
  return new TypeError(`no canonical JSON for ${what} at ${pointer === '' ? 'the root' : pointer}`);
}
