/** `KeyCreated` as `KEY_CREATED`, the form that GraphQL's enums have. */
export function screamingSnake(name: string): string {
  return name.replaceAll(/(?<=[a-z])(?=[A-Z])/g, '_').toUpperCase();
}
