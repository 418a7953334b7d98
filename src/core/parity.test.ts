import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { observedParity, parityLowerBound, provesParity } from './parity.ts'
import { randomFrom } from '../../test/support/seeded.ts'

const minParity = 0.9999
const confidence = 0.95

/** The fewest comparisons that prove parity with `mismatched` mismatches, by bisection. */
function fewest(mismatched: number, atLeast = minParity, at = confidence): number {
  let [low, high] = [0, 1e9]
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2)
    if (provesParity({ compared: middle, mismatched }, atLeast, at)) high = middle
    else low = middle
  }
  return high
}

describe('parity', () => {
  test('99.99 % at 95 % needs 33,285 clean comparisons, and 25,583 more for each mismatch', () => {
    expect(fewest(0)).toBe(33_285)
    for (const k of [1, 2, 3, 10, 100])
      expect(Math.abs(fewest(k) - (33_285 + 25_583 * k))).toBeLessThanOrEqual(1 + k)
  })

  test('a higher confidence and a higher parity need more', () => {
    expect(fewest(0, 0.9999, 0.99)).toBeGreaterThan(fewest(0, 0.9999, 0.95))
    expect(fewest(0, 0.99999)).toBeGreaterThan(9.9 * fewest(0, 0.9999))
  })

  test('nothing compared proves nothing', () => {
    expect(provesParity({ compared: 0, mismatched: 0 }, minParity, confidence)).toBe(false)
    expect(parityLowerBound({ compared: 0, mismatched: 0 }, confidence)).toBe(0)
    expect(observedParity({ compared: 0, mismatched: 0 })).toBeUndefined()
    expect(parityLowerBound({ compared: 1, mismatched: 2 }, confidence)).toBe(0)
    expect(observedParity({ compared: 4, mismatched: 1 })).toBe(0.75)
  })

  test('the bound is the largest parity that is proven', () => {
    expect(parityLowerBound({ compared: 33_285, mismatched: 0 }, confidence)).toBeGreaterThanOrEqual(
      minParity,
    )
    expect(parityLowerBound({ compared: 33_284, mismatched: 0 }, confidence)).toBeLessThan(minParity)
    fc.assert(
      fc.property(
        fc.integer({ min: 1000, max: 5_000_000 }),
        fc.integer({ min: 0, max: 50 }),
        (compared, mismatched) => {
          const bound = parityLowerBound({ compared, mismatched }, confidence)
          expect(bound).toBeGreaterThanOrEqual(0)
          expect(bound).toBeLessThanOrEqual(1 - mismatched / compared)
          if (bound <= 0) return
          expect(provesParity({ compared, mismatched }, bound - 1e-9, confidence)).toBe(true)
          expect(provesParity({ compared, mismatched }, Math.min(1 - 1e-12, bound + 1e-7), confidence)).toBe(
            false,
          )
        },
      ),
    )
  })

  test('the bound rises with every clean comparison and falls with every mismatch', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 1_000_000 }),
        fc.nat({ max: 100 }),
        fc.integer({ min: 1, max: 100_000 }),
        (compared, mismatched, more) => {
          const bound = parityLowerBound({ compared, mismatched }, confidence)
          expect(
            parityLowerBound({ compared: compared + more, mismatched }, confidence),
          ).toBeGreaterThanOrEqual(bound - 1e-12)
          expect(parityLowerBound({ compared, mismatched: mismatched + 1 }, confidence)).toBeLessThanOrEqual(
            bound + 1e-12,
          )
        },
      ),
    )
  })

  test('looking after every comparison, a migration at the limit passes less than one time in twenty', () => {
    const random = randomFrom(20260101)
    const runs = 20_000
    let passes = 0
    for (let run = 0; run < runs; run++) {
      let compared = 0
      for (let mismatched = 0; compared < 3_000_000; mismatched++) {
        // The clean comparisons before the next mismatch, at a true rate of exactly 1e-4.
        const clean = Math.floor(Math.log(1 - random()) / Math.log1p(-1e-4))
        if (provesParity({ compared: compared + clean, mismatched }, minParity, confidence)) {
          passes += 1
          break
        }
        compared += clean + 1
        // Far below any hope of ever passing.
        if (compared < 25_583 * mismatched - 250_000) break
      }
    }
    expect(passes / runs).toBeLessThan(0.05 + 0.005)
    expect(passes / runs).toBeGreaterThan(0.04)
  })

  test('a migration ten times better than asked for passes nearly always', () => {
    const random = randomFrom(7)
    let passes = 0
    for (let run = 0; run < 2000; run++) {
      let compared = 0
      for (let mismatched = 0; compared < 1_000_000; mismatched++) {
        const clean = Math.floor(Math.log(1 - random()) / Math.log1p(-1e-5))
        if (provesParity({ compared: compared + clean, mismatched }, minParity, confidence)) {
          passes += 1
          break
        }
        compared += clean + 1
      }
    }
    expect(passes / 2000).toBeGreaterThan(0.99)
  })
})
