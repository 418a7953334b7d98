import fc from 'fast-check'
import { expect, test } from 'vitest'
import { fitIdentifier, quoteIdentifier, quoteLiteral, quoteTable } from './identifiers.ts'

test('a name is quoted whatever it holds', () => {
  expect(quoteIdentifier('order')).toBe('"order"')
  expect(quoteIdentifier('a"; DROP TABLE users; --')).toBe('"a""; DROP TABLE users; --"')
  expect(quoteTable({ schema: 'my.schema', name: 'Table' })).toBe('"my.schema"."Table"')
})

test.each(['', 'a\0b', 'x'.repeat(64), 'ä'.repeat(32)])('%j names nothing', (name) => {
  expect(() => quoteIdentifier(name)).toThrow(
    expect.objectContaining({ code: 'DATABASE.INVALID_IDENTIFIER', kind: 'input' }),
  )
})

test('63 bytes are enough for 63 bytes', () => {
  expect(quoteIdentifier('x'.repeat(63))).toHaveLength(65)
  expect(quoteIdentifier('ä'.repeat(31) + 'x')).toHaveLength(34)
})

test('no text ends its own quotes', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', minLength: 1, maxLength: 12 }), (text) => {
      fc.pre(!text.includes('\0') && Buffer.byteLength(text) <= 63)
      const inner = quoteIdentifier(text).slice(1, -1)
      expect(inner.replaceAll('""', '')).not.toContain('"')
      expect(inner.replaceAll('""', '"')).toBe(text)
      const literal = quoteLiteral(text)
      expect(literal.startsWith('E')).toBe(text.includes('\\'))
      const body = literal.replace(/^E?'/s, '').slice(0, -1)
      expect(body.replaceAll("''", '').replaceAll('\\\\', '')).not.toMatch(/['\\]/)
    }),
  )
})

test('names that are too long are cut to different names', () => {
  const one = fitIdentifier('ä'.repeat(60) + '1')
  const two = fitIdentifier('ä'.repeat(60) + '2')
  expect(one).not.toBe(two)
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', minLength: 1, maxLength: 80 }), (name) => {
      fc.pre(!name.includes('\0'))
      const fitted = fitIdentifier(name)
      expect(Buffer.byteLength(fitted)).toBeLessThanOrEqual(63)
      // No half of a surrogate pair.
      expect(Buffer.from(fitted).toString()).toBe(fitted)
      if (Buffer.byteLength(name) <= 63) expect(fitted).toBe(name)
    }),
    { examples: [[`${'x'.repeat(51)}${'🙂'.repeat(5)}`]] }, // a cut at 54 bytes would go through the first
  )
})
