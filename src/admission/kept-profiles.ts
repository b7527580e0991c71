import type { ProfileFacts } from './key-facts.ts';
import { bytesOfJson } from './load-facts.ts';

/** The profiles of the keys that are kept: each is in memory once, and for as long as one of them has it. */
export type KeptProfiles = {
  /** The newest one that a kept key has. */
  find(id: string): ProfileFacts | undefined;
  /** Another key has it. Answers about how many bytes that takes: none where it was there already. */
  add(profile: ProfileFacts | null): number;
  /** A key that had it is forgotten. Answers about how many bytes that gives back. */
  remove(profile: ProfileFacts | null): number;
  clear(): void;
};

export function createKeptProfiles(): KeptProfiles {
  const newest = new Map<string, ProfileFacts>();
  const keys = new Map<ProfileFacts, number>();
  return {
    find: (id) => newest.get(id),
    add(profile) {
      if (profile === null) return 0;
      const others = keys.get(profile) ?? 0;
      keys.set(profile, others + 1);
      newest.set(profile.id, profile);
      return others === 0 ? bytesOfJson(profile.settings) : 0;
    },
    remove(profile) {
      const others = profile === null ? undefined : keys.get(profile);
      if (profile === null || others === undefined) return 0;
      if (others > 1) {
        keys.set(profile, others - 1);
        return 0;
      }
      keys.delete(profile);
      if (newest.get(profile.id) === profile) newest.delete(profile.id);
      return bytesOfJson(profile.settings);
    },
    clear() {
      newest.clear();
      keys.clear();
    },
  };
}
