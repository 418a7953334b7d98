import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { buckets, createBucketOf } from './bucket.ts'

const sha256 = (text: string): Buffer => createHash('sha256').update(text).digest()
const expected = (salt: string, key: string): number =>
  sha256(sha256(salt).toString('hex') + key).readUInt32BE(0) % buckets

test('a bucket is what SHA-256 says, for keys and salts of any length and script', () => {
  for (const length of [0, 1, 3, 4, 54, 55, 56, 63, 64, 65, 119, 120, 500])
    expect(createBucketOf('orders')('x'.repeat(length))).toBe(expected('orders', 'x'.repeat(length)))
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', maxLength: 80 }), fc.string({ maxLength: 80 }), (salt, key) => {
      expect(createBucketOf(salt)(key)).toBe(expected(salt, key))
    }),
  )
})

test('two salts share out the same keys independently of each other', () => {
  const [a, b] = [createBucketOf('orders'), createBucketOf('people')]
  let both = 0
  for (let i = 0; i < 100_000; i++) if (a(`user-${i}`) < buckets / 10 && b(`user-${i}`) < buckets / 10) both++
  expect(both / 1000).toBeGreaterThan(0.9)
  expect(both / 1000).toBeLessThan(1.1)
})
