import { readFileSync } from 'node:fs';

import { Kind, parse, print } from 'graphql';

const FILE = new URL('../conformance/documents/contract.graphql', import.meta.url);

const OPERATIONS = [
  'Viewer',
  'CreateApiKey',
  'M1',
  'M2',
  'M3',
  'M4',
  'M5',
  'Verify',
  'Record',
  'Keys',
  'Key',
  'Log',
  'LastUsed',
  'Changed',
  'Tail',
] as const;
type Operation = (typeof OPERATIONS)[number];

const { definitions } = parse(readFileSync(FILE, 'utf8'));

/** The one fragment of the contract. */
export const KEY_ROW = definitions
  .flatMap((definition) => (definition.kind === Kind.FRAGMENT_DEFINITION ? [print(definition)] : []))
  .join('\n');

/** The documents of the public contract, each with the fragment that it needs: from the file from which codegen makes typed documents. */
export const CONTRACT = Object.fromEntries(OPERATIONS.map((name) => [name, documentOf(name)])) as Readonly<Record<Operation, string>>;

function documentOf(name: Operation): string {
  const operation = definitions.find((definition) => definition.kind === Kind.OPERATION_DEFINITION && definition.name?.value === name);
  if (operation === undefined) throw new Error(`${FILE.pathname} has no operation ${name}.`);
  const text = print(operation);
  return text.includes('...KeyRow') ? `${text}\n${KEY_ROW}` : text;
}
