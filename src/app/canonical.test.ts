import { expect, test } from 'vitest'
import { canonical } from './canonical.ts'

test('what says nothing of a value does not count, and everything else does', () => {
  const at = new Date(0)
  expect(canonical({ a: 1, b: [{ c: 2n, d: undefined }], at })).toBe(
    canonical({ at: at.toISOString(), b: [{ c: '2' }], a: '1' }),
  )
  expect(canonical(Buffer.from('a'))).toBe(canonical(new Uint8Array([97])))
  const different = [undefined, null, '', [], {}, [1, 2], [2, 1], { a: null }, 'null', new Date(1), true]
  expect(new Set(different.map(canonical)).size).toBe(different.length)
})
