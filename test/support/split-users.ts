import type { SmallDefinition } from './both-sides.ts'
import { usersToPeople } from './users-to-people.ts'

/** A table whose columns go to two: people, and addresses of those that `hasAddress` names. */
export const splitTables =
  'CREATE TABLE users (id int PRIMARY KEY, name text, city text); CREATE TABLE people (id int PRIMARY KEY, name text); CREATE TABLE addresses (person int PRIMARY KEY, city text);'

export const splitUsers = (hasAddress?: string): SmallDefinition => ({
  mappings: [
    ...usersToPeople.mappings,
    {
      source: 'users',
      target: 'addresses',
      key: { id: 'person' },
      columns: { city: true },
      ...(hasAddress === undefined ? {} : { where: hasAddress }),
      reverse: { columns: { city: true } },
    },
  ],
})
