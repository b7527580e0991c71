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
    testTimeout: 30_000,
    hookTimeout: 30_000,
    teardownTimeout: 30_000,
    globalSetup: ['test/support/global-setup.ts'],
  },
});
