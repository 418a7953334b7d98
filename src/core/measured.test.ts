import { describe, expect, test } from 'vitest'
import { addMeasured, measuredBreach, nothingMeasured, type Measured } from './measured.ts'

const limits = { errorRate: 0.5, latencyDeltaMs: 50, alertMismatchRatio: 0.0001 }
const breachOf = (some: Partial<Measured>): string | undefined =>
  measuredBreach({ ...nothingMeasured, ...some }, limits)

describe('what instances measure is a breach', () => {
  test.each<[string, Partial<Measured>, RegExp]>([
    ['errors of reads', { reads: 900, readErrors: 5 }, /^5 of 900 reads .* more than 0.5 %$/],
    ['errors of writes', { writes: 10, writeErrors: 6, reads: 9_999 }, /^6 of 10 writes /],
    ['mismatches', { compared: 100, mismatched: 2 }, /2 times in 100 comparisons, more than 0.01 %$/],
    ['latency', { compared: 20, latencyDeltaMs: 1_010 }, /^the new side took 50.5 ms longer/],
  ])('%s', (_, some, says) => {
    expect(breachOf(some)).toMatch(says)
  })

  test.each<[string, Partial<Measured>]>([
    ['nothing', {}],
    ['a few errors', { reads: 4, readErrors: 4, writes: 4, writeErrors: 4 }],
    ['a rate at the limit', { reads: 1000, readErrors: 5 }],
    ['a single mismatch', { compared: 1, mismatched: 1 }],
    ['few mismatches among many', { compared: 20_000, mismatched: 2 }],
    ['few slow answers', { compared: 19, latencyDeltaMs: 19_000 }],
    ['a quicker side', { compared: 1000, latencyDeltaMs: -1e6 }],
  ])('but not %s', (_, some) => {
    expect(breachOf(some)).toBeUndefined()
  })
})

test('counts of instances are added up, each in its place', () => {
  const one = {
    reads: 1,
    readErrors: 2,
    writes: 3,
    writeErrors: 4,
    compared: 5,
    mismatched: 6,
    latencyDeltaMs: 7,
  }
  const sum = addMeasured(one, addMeasured(one, nothingMeasured))
  expect(sum).toEqual(Object.fromEntries(Object.entries(one).map(([name, value]) => [name, 2 * value])))
})
