import fc from 'fast-check'
import { expect, test } from 'vitest'
import { halvedRows, nextChunkRows, restAfterChunkMs } from './chunk-size.ts'

const limits = { targetChunkMs: 50, maxRows: 20_000 }

test('a chunk grows at most twofold, and shrinks at once', () => {
  expect(nextChunkRows({ askedRows: 500, tookMs: 1, full: true }, limits)).toBe(1000)
  expect(nextChunkRows({ askedRows: 500, tookMs: 40, full: true }, limits)).toBe(625)
  expect(nextChunkRows({ askedRows: 500, tookMs: 5000, full: true }, limits)).toBe(5)
})

test('the end of a range says nothing about speed', () => {
  expect(nextChunkRows({ askedRows: 500, tookMs: 1, full: false }, limits)).toBe(500)
  expect(nextChunkRows({ askedRows: 500, tookMs: 100, full: false }, limits)).toBe(250)
})

test('a chunk stays within its limits, whatever it took', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 20_000 }),
      fc.double({ min: 0, max: 1e7, noNaN: true }),
      fc.boolean(),
      (askedRows, tookMs, full) => {
        const rows = nextChunkRows({ askedRows, tookMs, full }, { ...limits, minRows: 3 })
        expect(Number.isInteger(rows)).toBe(true)
        expect(rows).toBeGreaterThanOrEqual(3)
        expect(rows).toBeLessThanOrEqual(20_000)
      },
    ),
  )
})

test('at a steady speed the size settles where a chunk takes its time', () => {
  let rows = 500
  for (let i = 0; i < 30; i++)
    rows = nextChunkRows(
      { askedRows: rows, tookMs: 1.3 + rows * 0.0032, full: true },
      { ...limits, maxRows: 1e9 },
    )
  expect(1.3 + rows * 0.0032).toBeCloseTo(50, 0)
})

test('half a chunk is at least one row', () => {
  expect([1, 2, 3, 500].map(halvedRows)).toEqual([1, 1, 1, 250])
})

test('a gentle lane rests as long as it worked, and nobody less than the rate limit', () => {
  expect(restAfterChunkMs(50, 'gentle', 0)).toBe(50)
  expect(restAfterChunkMs(50, 'gentle', 100)).toBe(100)
  expect(restAfterChunkMs(150, 'fast', 0)).toBe(0)
  expect(restAfterChunkMs(150, 'fast', 100)).toBe(100)
})
