import type { DefinitionInput } from '../../src/index.ts'

/** The least that can be moved: rows with a name, from one table to another. */
export const usersAndPeople =
  'CREATE TABLE users (id int PRIMARY KEY, name text); CREATE TABLE people (id int PRIMARY KEY, name text);'

export const usersToPeople = {
  mappings: [
    {
      source: 'users',
      target: 'people',
      key: { id: 'id' },
      columns: { name: true },
      reverse: { columns: { name: true } },
    },
  ],
} as const satisfies Partial<DefinitionInput>
