import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))

const bench = (...args: string[]): { status: number | null; stdout: string; stderr: string } =>
  spawnSync(process.execPath, ['--import', 'tsx', 'bench/index.ts', ...args], { cwd: root, encoding: 'utf8' })

describe('benches', () => {
  test.each([
    ['backfill', ['vsOneShotIndexed', 'vsBlockingIdeal'], 'rowsPerSec'],
    ['dual-write', ['capturedP50VsPlain', 'capturedP99VsPlain', 'p50VsPlain', 'p99VsPlain'], 'dualP99Ms'],
    ['flags', [], 'propagationMs'],
    ['column', ['vsChunkedUpdate', 'vsWithTrigger'], 'rowsPerSec'],
    ['order', ['physicalVsKey'], 'physicalRowsPerSec'],
    ['verify', ['vsFullJoin'], 'rowsPerSec'],
    ['resume', ['temporalShare'], 'resumedMs'],
    ['latency', ['p99VsQuiet', 'plainP99VsQuiet', 'p99VsPlain', 'unflushedP99VsQuiet'], 'chaserP99Ms'],
  ])('%s ends with one JSON object that scripts can read', { timeout: 180_000 }, (name, ratios, median) => {
    const { status, stdout, stderr } = bench(name, '--rows', '4000', '--runs', '2', '--json')
    expect(status, stderr).toBe(0)
    const result = JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '') as Record<string, unknown>
    expect(Object.keys(result)).toEqual(['name', 'machine', 'runs', 'medians', 'min', 'max', 'ratios'])
    expect(result).toMatchObject({ name, runs: 2 })
    expect(Object.keys(result['ratios'] as object)).toEqual(ratios)
    // Temporal's share of a backfill of one slice, which was killed, is none.
    const least = name === 'resume' ? 0 : Number.MIN_VALUE
    for (const ratio of Object.values(result['ratios'] as object)) expect(ratio).toBeGreaterThanOrEqual(least)
    for (const of of ['medians', 'min', 'max'])
      expect((result[of] as Record<string, number>)[median], `${of}.${median}`).toBeGreaterThan(0)
  })

  test('what cannot be understood is a usage error', () => {
    expect(bench('nothing')).toMatchObject({ status: 2, stdout: '' })
    expect(bench('backfill', '--rows', 'many')).toMatchObject({ status: 2, stdout: '' })
    expect(bench('--help')).toMatchObject({ status: 0, stderr: '' })
  })
})
