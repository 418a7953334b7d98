import { expect, test } from 'vitest'
import { Latencies } from './latencies.ts'

test('percentiles are right to four percent, and the longest is exact', () => {
  const latencies = new Latencies()
  for (let ms = 1; ms <= 1_000; ms++) latencies.add(ms)
  expect(latencies.longestMs).toBe(1_000)
  for (const percent of [50, 90, 99]) {
    expect(latencies.percentile(percent)).toBeGreaterThanOrEqual(percent * 10)
    expect(latencies.percentile(percent)).toBeLessThanOrEqual(percent * 10 * 1.04)
  }
  expect(latencies.percentile(100)).toBe(1_000)
})

test('nothing measured is 0, and what is absurdly long still counts', () => {
  const latencies = new Latencies()
  expect(latencies.percentile(99)).toBe(0)
  latencies.add(0)
  latencies.add(10_000_000)
  expect(latencies.percentile(99)).toBeLessThanOrEqual(10_000_000)
  expect(latencies.longestMs).toBe(10_000_000)
  latencies.reset()
  expect(latencies.count).toBe(0)
})
