import { expect, test } from 'vitest'
import { chooseOrder } from './copy-order.ts'

const large = { pages: 50_000, cachePages: 16_384, correlation: 0.01, obstacle: undefined }

test('a large table whose key does not follow its file is read as it lies there', () => {
  expect(chooseOrder(large)).toEqual({
    order: 'physical',
    reason:
      'the key does not follow the file (correlation 0.01), which is larger than the cache of the server',
  })
})

test.each([
  ['its places cannot be used', { obstacle: 'it has several files' }, /several files/],
  ['it is in the cache anyway', { pages: 16_384 }, /fits/],
  ['nobody has looked', { correlation: undefined }, /analysed/],
  ['the key follows the file', { correlation: 0.98 }, /0\.98/],
  ['the key follows the file backwards', { correlation: -1 }, /-1\.00/],
])('by key, where %s', (_, change, reason) => {
  const chosen = chooseOrder({ ...large, ...change })
  expect(chosen.order).toBe('key')
  expect(chosen.reason).toMatch(reason)
})

test('a person may say otherwise, and nobody can use places that there are not', () => {
  expect(chooseOrder(large, 'key').order).toBe('key')
  expect(chooseOrder({ ...large, pages: 1 }, 'physical').order).toBe('physical')
  expect(chooseOrder({ ...large, obstacle: 'it has several files' }, 'physical')).toEqual({
    order: 'key',
    reason: 'it has several files',
  })
})
