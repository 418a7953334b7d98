import fc from 'fast-check'
import { expect, test } from 'vitest'
import { formatDuration, parseDurationMs } from './durations.ts'

test.each([
  ['500ms', 500],
  ['30s', 30_000],
  ['1.5m', 90_000],
  ['2h', 7_200_000],
  ['3d', 259_200_000],
  ['1w', 604_800_000],
  [' 10 m ', 600_000],
  [0, 0],
  [250, 250],
])('%s is %d ms', (text, ms) => {
  expect(parseDurationMs(text)).toBe(ms)
})

test.each(['', '10', 's', '-1s', '1 fortnight', '1s 2m', '1e3s', '1.s', 'NaNs', -1, NaN, Infinity])(
  '%s is no duration',
  (text) => {
    expect(parseDurationMs(text)).toBeUndefined()
  },
)

test('people read the two or three largest units', () => {
  expect(
    [0, 999, 1500, 59_900, 61_000, 3_600_000, 93_784_000, 604_800_000].map((ms) => formatDuration(ms)),
  ).toEqual(['0ms', '999ms', '1.5s', '59.9s', '1m 1s', '1h', '1d 2h 3m', '7d'])
})

test('no duration is formatted as nothing, or with a unit that is full', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 10 * 604_800_000 }), (ms) => {
      const text = formatDuration(ms)
      expect(text).toMatch(/^\d+(\.\d)?(ms|s|m|h|d)( \d+(s|m|h)){0,2}$/)
      expect(text).not.toMatch(/\b60s|\b60m|\b24h/)
    }),
  )
})
