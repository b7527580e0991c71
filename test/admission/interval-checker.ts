/** A question to a server, with when it was asked and answered, and what was said. */
export type Observed = {
  readonly subject: string;
  readonly server: number;
  readonly startMs: number;
  readonly endMs: number;
  readonly outcome: string;
};

/** A change of what is to be answered about a subject: sent, and acknowledged. */
export type Changed = {
  readonly subject: string;
  readonly what: string;
  readonly sentMs: number;
  readonly acknowledgedMs: number;
  readonly outcome: string;
};

/**
 * Answers that can't be: an answer to a question that began after a change was acknowledged and was answered before the next one was sent has to be what that change made it,
 * on whatever server. One that overlaps a change may be what was before or after it. Subjects begin with the outcome of their first change.
 */
export function staleAnswers(observed: readonly Observed[], changed: readonly Changed[]): readonly string[] {
  const changesOf = Map.groupBy(changed, (change) => change.subject);
  return observed.flatMap((answer) => {
    const changes = changesOf.get(answer.subject) ?? [];
    const last = changes.findLastIndex((change) => change.acknowledgedMs < answer.startMs);
    if (last === -1) return [];
    // The one that was in force, and those that came into force meanwhile.
    const possible = changes.slice(last).filter((change, index) => index === 0 || change.sentMs <= answer.endMs);
    if (possible.some((change) => change.outcome === answer.outcome)) return [];
    const { what, acknowledgedMs } = changes[last] ?? { what: 'nothing', acknowledgedMs: 0 };
    return [
      `${answer.subject}: ${answer.outcome} from server ${answer.server} to a question of ${(answer.startMs - acknowledgedMs).toFixed(1)} ms after '${what}' was acknowledged`,
    ];
  });
}
