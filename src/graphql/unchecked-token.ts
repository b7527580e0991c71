import type { Admission, CallerRefused, VerifyAnswer, VerifyRequest } from '../admission/admission.ts';
import { accessTokenHash, looksLikeJwt } from '../identity/access-token.ts';
import { bearerToken } from '../identity/authenticate.ts';

/** The longest that is looked at here; what is longer is refused where callers are authenticated. */
const MAX_LENGTH = 1024;

/**
 * An access token that nobody has looked up. The statement that verifies a key checks it as well, which saves the operation a round trip to the database. Where that refuses, or anything else goes wrong, the operation is
 * run again for the caller as authentication finds them, so that the answer is the same.
 */
export type UncheckedToken = {
  /** The one verification of the operation: asked for again, it answers what it answered. */
  verify(request: VerifyRequest): Promise<VerifyAnswer | CallerRefused>;
  /** Whether something may have been recorded: then the operation must not be run again. */
  mayHaveRecorded(): boolean;
};

/** Null where the header holds no access token; JWTs are for authentication to check. */
export function uncheckedToken(admission: Admission, authorization: string | undefined): UncheckedToken | null {
  const token = bearerToken(authorization);
  if (token === undefined || token.length > MAX_LENGTH || looksLikeJwt(token)) return null;
  const tokenHash = accessTokenHash(token);
  let mayHaveRecorded = false;
  let asked: Promise<VerifyAnswer | CallerRefused> | undefined;

  async function ask(request: VerifyRequest): Promise<VerifyAnswer | CallerRefused> {
    mayHaveRecorded = true;
    const answer = await admission.verify({ kind: 'token', tokenHash }, request);
    if (answer.kind !== 'answer') mayHaveRecorded = false;
    return answer;
  }

  return {
    verify: (request) => (asked ??= ask(request)),
    mayHaveRecorded: () => mayHaveRecorded,
  };
}
