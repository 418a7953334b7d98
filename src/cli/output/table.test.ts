import { expect, test } from 'vitest'
import { formatBytes, formatCount, renderFields, renderTable, wrap } from './table.ts'

test('columns are as wide as their widest cell', () => {
  expect(
    renderTable(
      ['NAME', 'PHASE'],
      [
        ['people', 'expand'],
        ['a', 'done'],
      ],
    ),
  ).toEqual(['NAME    PHASE', 'people  expand', 'a       done'])
})

test('fields are padded alike', () => {
  expect(
    renderFields([
      ['Rate', '5'],
      ['Change log', '0'],
    ]),
  ).toEqual(['  Rate        5', '  Change log  0'])
})

test('numbers for people', () => {
  expect([0, 1234567.8].map(formatCount)).toEqual(['0', '1,234,568'])
  expect([0, 1023, 1536, 200 * 1024 ** 2, 5 * 1024 ** 4].map(formatBytes)).toEqual([
    '0 B',
    '1023 B',
    '1.5 KiB',
    '200 MiB',
    '5.0 TiB',
  ])
})

test('words are wrapped, and a word that is too long stands alone', () => {
  expect(wrap('aa bb cccccc d', 5)).toEqual(['aa bb', 'cccccc', 'd'])
})
