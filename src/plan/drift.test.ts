import { describe, expect, it } from 'vitest'
import { driftOf, type PlannedColumn, type PlannedTable } from './drift.ts'

const email: PlannedColumn = ['email', 'character varying(100)', false, 'default', false]
const id: PlannedColumn = ['id', 'bigint', true, null, false]
const users = (...columns: PlannedColumn[]): PlannedTable[] => [['users', columns]]

describe('driftOf', () => {
  it.each([
    ['nothing', users(id, email), []],
    [
      'a type',
      users(id, ['email', 'text', false, 'default', false]),
      ['column email: character varying(100) → text'],
    ],
    [
      'several things of one column',
      users(id, ['email', 'character varying(100)', true, 'C', true]),
      [
        'column email: nullable → NOT NULL',
        'column email: collation default → collation C',
        'column email: not generated → generated',
      ],
    ],
    ['a column less', users(id), ['column email is gone']],
    ['a column more', users(id, email, ['note', 'text', false, null, false]), ['column note text is new']],
    ['the order', users(email, id), ['the order of its columns changed']],
  ])('names %s', (_, now, lines) => {
    expect(driftOf(users(id, email), now)).toEqual(lines.map((line) => `users: ${line}`))
  })

  it('names a table that is gone', () => {
    expect(driftOf(users(id), [['users', null]])).toEqual(['users is gone'])
  })
})
