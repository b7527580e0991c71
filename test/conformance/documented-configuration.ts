import { readFileSync } from 'node:fs';

const GUIDE = new URL('../../docs/gateways.md', import.meta.url);

/**
 * A code block of docs/gateways.md by its language, with values in place of what a reader would change: so that what is tested is what is pasted. Throws where the guide no longer has the block, or a text
 * that is to be replaced.
 */
export function documentedConfiguration(language: string, replacements: Readonly<Record<string, string>>): string {
  const block = new RegExp(`^\`\`\`${language}\n([\\s\\S]*?)^\`\`\`$`, 'm').exec(readFileSync(GUIDE, 'utf8'))?.[1];
  if (block === undefined) throw new Error(`docs/gateways.md has no block of ${language}`);
  return Object.entries(replacements).reduce((text, [from, to]) => {
    if (!text.includes(from)) throw new Error(`the ${language} block of docs/gateways.md has no ${from}`);
    return text.replaceAll(from, to);
  }, block);
}
