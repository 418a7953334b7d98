import { isSameTable, type Pair, type TableName } from '../core/link.ts'
import type { ParsedDefinition } from './schema.ts'

interface Mapping {
  readonly source: TableName
  readonly columns: Readonly<Record<string, unknown>>
  readonly reverse: false | { readonly columns: Readonly<Record<string, unknown>> }
}

/**
 * Which columns of a row follow each other: new columns that replace the same old one stand together, and so do old ones that
 * one new column replaces. What no `replaces` names is one pair more.
 */
export function pairsOf({ expand }: Pick<ParsedDefinition, 'expand'>, mapping: Mapping): Pair[] {
  const back = mapping.reverse === false ? [] : Object.keys(mapping.reverse.columns)
  let pairs: Pair[] = []
  for (const name of Object.keys(mapping.columns)) {
    const declared = expand.columns?.find(
      (column) => column.name === name && isSameTable(column.table, mapping.source),
    )
    const old = declared?.replaces ?? []
    const touched = pairs.filter((pair) => pair.old.some((other) => old.includes(other)))
    const joined = {
      old: [...new Set([...touched.flatMap((pair) => pair.old), ...old])],
      new: [...touched.flatMap((pair) => pair.new), name],
    }
    pairs = [...pairs.filter((pair) => !touched.includes(pair)), joined]
  }
  const loose = pairs.filter((pair) => pair.old.length === 0)
  const named = new Set(pairs.flatMap((pair) => pair.old))
  const rest = back.filter((name) => !named.has(name))
  if (rest.length === 0) return pairs
  return [
    ...pairs.filter((pair) => pair.old.length > 0),
    { old: rest, new: loose.flatMap((pair) => pair.new) },
  ].filter((pair) => pair.new.length > 0)
}
