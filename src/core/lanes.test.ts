import { expect, test } from 'vitest'
import { isWorthwhile, laneCount } from './lanes.ts'

test('a lane is worthwhile where it makes all of them together a tenth faster', () => {
  expect(isWorthwhile(1000, 1099)).toBe(false)
  expect(isWorthwhile(1000, 1100)).toBe(true)
})

test('there are never more lanes than ranges or than were asked for, and gentle takes one', () => {
  expect(laneCount({ maxConcurrency: 10, profile: 'fast' }, 40)).toBe(4)
  expect(laneCount({ maxConcurrency: 10, profile: 'fast' }, 2)).toBe(2)
  expect(laneCount({ maxConcurrency: 1, profile: 'fast' }, 40)).toBe(1)
  expect(laneCount({ maxConcurrency: 10, profile: 'gentle' }, 40)).toBe(1)
})
