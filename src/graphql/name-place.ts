import { GraphQLError, Kind, visit, type ASTNode, type DocumentNode } from 'graphql';

/**
 * Validation errors about values that stand in a document, each with the argument or variable that the value was given for, as graphql-js itself does it for
 * what comes as a variable. Others stay as they are.
 */
export function namePlaces(document: DocumentNode, errors: readonly GraphQLError[]): readonly GraphQLError[] {
  return errors.map((error) => {
    const [node] = error.nodes ?? [];
    const place = node !== undefined && isValue(node) ? placeOf(document, node) : null;
    if (place === null) return error;
    const { message, nodes, extensions } = error;
    return new GraphQLError(`${place}: ${message}`, { ...(nodes === undefined ? {} : { nodes }), extensions });
  });
}

const VALUES: ReadonlySet<string> = new Set([
  Kind.INT,
  Kind.FLOAT,
  Kind.STRING,
  Kind.BOOLEAN,
  Kind.NULL,
  Kind.ENUM,
  Kind.LIST,
  Kind.OBJECT,
  Kind.OBJECT_FIELD,
]);

function isValue({ kind }: ASTNode): boolean {
  return VALUES.has(kind);
}

function placeOf(document: DocumentNode, wanted: ASTNode): string | null {
  const above: string[] = [];
  let parents: readonly unknown[] = [];
  visit(document, {
    enter(node, _key, parent, _path, ancestors) {
      if (node !== wanted) return undefined;
      parents = [...ancestors, parent, node];
      return false;
    },
  });
  let whole: string | null = null;
  for (const parent of parents) {
    if (typeof parent !== 'object' || parent === null || !('kind' in parent)) continue;
    // What `visit` calls an ancestor is a node or a list of nodes; the lists have no kind.
    const node = parent as ASTNode;
    if (node.kind === Kind.ARGUMENT) whole = `Argument "${node.name.value}" has invalid value`;
    else if (node.kind === Kind.VARIABLE_DEFINITION) whole = `Variable "$${node.variable.name.value}" has invalid default value`;
    else if (node.kind === Kind.OBJECT_FIELD) above.push(`.${node.name.value}`);
    else if (node.kind === Kind.LIST) above.push(indexIn(node.values, parents));
  }
  const within = above.join('');
  return whole === null ? null : `${whole}${within === '' ? '' : ` at ${within}`}`;
}

/** Which item of a list is on the way to the value; none where the list itself is it. */
function indexIn(items: readonly ASTNode[], parents: readonly unknown[]): string {
  const index = items.findIndex((item) => parents.includes(item));
  return index === -1 ? '' : `[${index}]`;
}
