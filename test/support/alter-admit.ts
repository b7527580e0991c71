import { asAdmin, type TestDatabase } from './database.ts';

/** Puts another text in the place of each occurrence of one in the function that decides a batch: for the controls, which break one of its rules. */
export async function alterAdmit(database: TestDatabase, found: string, instead: string): Promise<void> {
  await asAdmin(async (client) => {
    await client.query('SET search_path = keyledger');
    const { rows } = await client.query<{ definition: string }>(`SELECT pg_get_functiondef('keyledger.admit'::regproc) AS definition`);
    const definition = rows[0]?.definition ?? '';
    if (!definition.includes(found)) throw new Error(`admit has no ${found}`);
    await client.query(definition.replaceAll(found, instead));
  }, database.name);
}
