import fc from 'fast-check'
import { expect, test } from 'vitest'
import { bar, etaSec, progressPercent } from './progress.ts'

const count = fc.nat({ max: 1_000_000 })

test('progress is never over 100 %, and reaches it only when every range is done', () => {
  fc.assert(
    fc.property(count, count, count, count, (rowsDone, rowsEstimated, rangesDone, rangesTotal) => {
      const percent = progressPercent({ rowsDone, rowsEstimated, rangesDone, rangesTotal })
      expect(percent).toBeGreaterThanOrEqual(0)
      expect(percent).toBeLessThanOrEqual(100)
      expect(percent === 100).toBe(rangesTotal > 0 && rangesDone >= rangesTotal)
    }),
  )
})

test('an estimate that was too low does not end a backfill', () => {
  expect(progressPercent({ rowsDone: 5000, rowsEstimated: 1000, rangesDone: 3, rangesTotal: 4 })).toBe(99.9)
  expect(etaSec({ rowsDone: 5000, rowsEstimated: 1000, rangesDone: 3, rangesTotal: 4 }, 100)).toBe(1)
})

test('the time to go is known only where there is a rate', () => {
  const counts = { rowsDone: 1000, rowsEstimated: 5000, rangesDone: 0, rangesTotal: 4 }
  expect(etaSec(counts, 100)).toBe(40)
  expect(etaSec(counts, 0)).toBeUndefined()
  expect(etaSec({ ...counts, rowsEstimated: 0 }, 100)).toBeUndefined()
  expect(etaSec({ ...counts, rangesDone: 4 }, 0)).toBe(0)
})

test('a bar has its width', () => {
  expect([0, 49, 50, 99.9, 100, 120].map((percent) => bar(percent, 4))).toEqual([
    '░░░░',
    '█░░░',
    '██░░',
    '███░',
    '████',
    '████',
  ])
})
