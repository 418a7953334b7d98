import type { Scope } from '../steps.ts'
import { quoteIdentifier } from './identifiers.ts'

/** Everything that a migration creates beside the user's own tables stands in this one schema. */
export const scopeOf = (migration: string): Scope => ({ migration, schema: `_crossfade_${migration}` })

/** Something in it, as it is written in SQL. */
export const inScope = ({ schema }: Scope, name: string): string =>
  `${quoteIdentifier(schema)}.${quoteIdentifier(name)}`
