import { defineConfig } from 'vitest/config'

interface Kind {
  readonly name: string
  readonly include: string[]
  /** Servers are started for these only, and only when one of their files is run. */
  readonly usesServers: boolean
  readonly testTimeoutMs: number
}

/** The long form of torture is as large as real tables are. */
const isLong = process.env['CROSSFADE_TORTURE'] === 'long'

const kinds: readonly Kind[] = [
  {
    name: 'unit',
    include: ['src/**/*.test.ts', 'scripts/**/*.test.ts'],
    usesServers: false,
    testTimeoutMs: 10_000,
  },
  {
    name: 'integration',
    include: ['test/integration/**/*.test.ts'],
    usesServers: true,
    testTimeoutMs: 120_000,
  },
  { name: 'workflow', include: ['test/workflow/**/*.test.ts'], usesServers: true, testTimeoutMs: 120_000 },
  { name: 'replay', include: ['test/replay/**/*.test.ts'], usesServers: true, testTimeoutMs: 60_000 },
  // Nothing but arithmetic, and more of it than a unit test.
  { name: 'model', include: ['test/model/**/*.test.ts'], usesServers: false, testTimeoutMs: 120_000 },
  {
    name: 'torture',
    include: ['test/torture/**/*.test.ts'],
    usesServers: true,
    testTimeoutMs: isLong ? 3_600_000 : 300_000,
  },
  {
    name: 'e2e',
    include: ['test/e2e/**/*.test.ts'],
    usesServers: true,
    testTimeoutMs: 300_000,
  },
  { name: 'packaging', include: ['test/packaging/**/*.test.ts'], usesServers: false, testTimeoutMs: 300_000 },
]

export default defineConfig({
  test: {
    allowOnly: !process.env['CI'],
    passWithNoTests: false,
    coverage: { provider: 'v8', include: ['src/**/*.ts'], exclude: ['src/**/*.test.ts', 'src/**/*.d.ts'] },
    projects: kinds.map((kind) => ({
      // The examples import the package as its users do.
      resolve: { alias: [{ find: /^crossfade-db$/, replacement: `${import.meta.dirname}/src/index.ts` }] },
      test: {
        name: kind.name,
        include: kind.include,
        pool: 'forks' as const,
        // Two at a time, of whatever kind: much of it waits for a time-out or a hold, and what is killed is the test's own.
        maxWorkers: 2,
        testTimeout: kind.testTimeoutMs,
        // On CI's two cores a server may once be slower than a test waits: tried once more, and the report shows it.
        retry: kind.usesServers && process.env['CI'] ? 1 : 0,
        hookTimeout: Math.max(60_000, kind.testTimeoutMs),
        ...(kind.usesServers ? { globalSetup: ['test/support/global-setup.ts'] } : {}),
      },
    })),
  },
})
