import pg from 'pg';

import { parseInt8, parseInt8Array } from './int8.ts';

const { builtins, getTypeParser } = pg.types;
const INT8_ARRAY_OID = 1016;

/**
 * Column `bigint` (and `bigint[]`) as `bigint`; everything else as pg does it. Handed to each connection: pg's own registry is global to the process.
 */
export const typeParsers: pg.CustomTypesConfig = {
  getTypeParser: ((oid: number, format?: 'text' | 'binary') => {
    if (format === undefined || format === 'text') {
      if (oid === builtins.INT8) return parseInt8;
      if (oid === INT8_ARRAY_OID) return parseInt8Array;
    }
    return getTypeParser(oid, format ?? 'text') as unknown;
  }) as pg.CustomTypesConfig['getTypeParser'],
};
