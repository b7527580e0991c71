import type { CodegenConfig } from '@graphql-codegen/cli';

/**
 * Typed documents for GraphQL clients from the committed schema, which needs no running server. Written to CODEGEN_OUTPUT (a folder; test/conformance/generated unless set, which git ignores): a test generates
 * into a folder of its own.
 */
const output = process.env['CODEGEN_OUTPUT'] ?? 'test/conformance/generated';

const config: CodegenConfig = {
  schema: 'schema/schema.graphql',
  documents: process.env['CODEGEN_DOCUMENTS'] ?? 'test/conformance/**/*.graphql',
  // Node runs TypeScript as it stands, so an import names the file.
  importExtension: '.ts',
  generates: {
    [`${output.replace(/\/*$/, '')}/`]: {
      preset: 'client',
      presetConfig: { fragmentMasking: false },
      config: {
        useTypeImports: true,
        enumsAsTypes: true,
        strictScalars: true,
        scalars: { DateTime: 'string', Position: 'string', JSON: 'unknown' },
        documentMode: 'string',
      },
    },
  },
};

export default config;
