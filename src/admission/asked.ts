import type { VerifyCaller, VerifyRequest } from './admission.ts';

/** Who asks, and by what a secret is looked up. */
export type Wanted = {
  readonly caller: VerifyCaller;
  /** Null where the presented text is no key of ours. */
  readonly lookupId: string | null;
  /** SHA-256 of a text in a form that is not ours, by which an imported secret is found; null for keys of ours and for what can be no key. */
  readonly foreignHash: Buffer | null;
};

/** A request with all that is made of its secret. */
export type Asked = Wanted & {
  readonly request: VerifyRequest;
  /** The presented secret's MAC under the current pepper, in hex. */
  readonly mac: string;
};
