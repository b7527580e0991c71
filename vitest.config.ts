import { defineConfig } from 'vitest/config';

export default defineConfig({
  ssr: {
    // Vitest's own list holds `development`, for which graphql 17 has another build than the one that libraries under test load through Node; then
    // two are loaded and their instanceof checks fail. `import` must not stand here: it reaches require() too, and pg requires pg-pool.
    resolve: { conditions: ['node', 'module-sync', 'default'] },
  },
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: 2,
    // Two processes run all files, instead of one each: to start it and to load the product takes longer than most files do (270 s became 220). So a file leaves
    // nothing behind it: what it opens it closes, and it changes nothing that belongs to the process.
    isolate: false,
    // They end what hangs; no test waits for them. A busy machine may be ten times slower than a quiet one.
    testTimeout: 120_000,
    hookTimeout: 120_000,
    teardownTimeout: 30_000,
    globalSetup: ['test/support/global-setup.ts'],
  },
});
