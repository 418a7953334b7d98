import { formatTable, isSameTable, type TableName } from '../core/link.ts'
import type { Mends, TableDescription } from '../database/index.ts'
import type { Migration } from '../definition/index.ts'
import { checkFollowed, type Finding } from './checks.ts'

type Mapping = Migration['mappings'][number]
type Find = (table: TableName) => TableDescription | undefined

const refusal = (rule: string, message: string, mend: string): Finding => ({
  rule,
  severity: 'refusal',
  message,
  mend,
})

/** Whether an index finds rows by these columns: they lead it, in whatever order. */
const isIndexed = (table: TableDescription, columns: readonly string[]): boolean =>
  table.indexes.some((index) => columns.every((column) => index.slice(0, columns.length).includes(column)))

/** What a mapping reads beside its source is followed there, and found by an index from both sides. */
export function checkDependencies(mends: Mends, mapping: Mapping, find: Find): Finding[] {
  return (mapping.dependsOn ?? []).flatMap((dependency) => {
    const { table } = dependency
    const found = find(table)
    if (!('on' in dependency)) return found ? [] : [missing(table)]
    const source = find(mapping.source)
    if (!found) return [missing(table)]
    const followed = checkFollowed(found, 'mappings[].dependsOn')
    if (!source || followed.some(({ severity }) => severity === 'refusal')) return followed
    return [
      ...followed,
      ...checkColumns(mends, found, Object.keys(dependency.on)),
      ...checkColumns(mends, source, Object.values(dependency.on)),
    ]
  })
}

const missing = (table: TableName): Finding =>
  refusal(
    'depends-on-missing',
    `There is no table ${formatTable(table)}.`,
    'Correct mappings[].dependsOn[].table; names are taken literally, without case folding.',
  )

function checkColumns(mends: Mends, found: TableDescription, columns: readonly string[]): Finding[] {
  const name = formatTable(found.table)
  const unknown = columns.filter((column) => !found.columns.some((other) => other.name === column))
  if (unknown.length > 0)
    return [
      refusal(
        'depends-on-column-missing',
        `${name} has no column ${unknown.join(', ')}.`,
        `Correct mappings[].dependsOn[].on; the table has ${found.columns.map((column) => column.name).join(', ')}.`,
      ),
    ]
  if (isIndexed(found, columns)) return []
  return [
    refusal(
      'depends-on-not-indexed',
      `No index of ${name} starts with (${columns.join(', ')}): each change, and each row that is copied, would read the whole table.`,
      mends.index(found, columns),
    ),
  ]
}

/** Whatever else the server reads for a mapping could change without anybody copying the rows again. */
export function checkReads({ source, dependsOn = [] }: Mapping, read: readonly TableName[]): Finding[] {
  return read
    .filter((table) => !isSameTable(table, source) && !dependsOn.some((one) => isSameTable(one.table, table)))
    .map((table) =>
      refusal(
        'reads-unfollowed',
        `The mapping of ${formatTable(source)} reads ${formatTable(table)}, and nothing says which rows a change of it touches.`,
        `Add { table: '${formatTable(table)}', on: { itsColumn: 'sourceColumn' } } to dependsOn, or constant: true where nobody changes it.`,
      ),
    )
}
