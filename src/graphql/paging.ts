import { badUserInput } from './client-error.ts';
import { DEFAULT_PAGE, MAX_PAGE } from './limits.ts';

/** A page as Relay's connections have it. */
export type Page<Node> = {
  readonly edges: { cursor: string; node: Node }[];
  readonly pageInfo: { hasNextPage: boolean; hasPreviousPage: boolean; startCursor: string | null; endCursor: string | null };
};

/** How many to read: 20 by default, 100 at most; more is refused rather than cut, so that nobody takes a part for the whole. */
export function pageSizeOf(first: number | null | undefined): number {
  if (first == null) return DEFAULT_PAGE;
  if (first < 1 || first > MAX_PAGE) throw badUserInput(`'first' takes 1 to ${MAX_PAGE}.`);
  return first;
}

/** A page out of rows of which one more than the page's size was read. `hasPreviousPage` says only that the page was asked for after another. */
export function pageOf<Node>(rows: readonly Node[], size: number, cursorOf: (node: Node) => string, afterCursor: boolean): Page<Node> {
  const edges = rows.slice(0, size).map((node) => ({ cursor: cursorOf(node), node }));
  return {
    edges,
    pageInfo: {
      hasNextPage: rows.length > size,
      hasPreviousPage: afterCursor,
      startCursor: edges[0]?.cursor ?? null,
      endCursor: edges.at(-1)?.cursor ?? null,
    },
  };
}
