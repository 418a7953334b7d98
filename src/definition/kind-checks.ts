import { formatTable, isSameTable } from '../core/link.ts'
import { pairsOf } from './pairs.ts'
import type { ParsedDefinition } from './schema.ts'

export interface Finding {
  readonly path: string
  readonly problem: string
}

/** What a definition of kind `table` must have, and what it cannot use. */
export function checkTableKind({ mappings, expand }: ParsedDefinition): Finding[] {
  const findings: Finding[] = []
  mappings.forEach(({ source, target }, i) => {
    if (target === undefined) findings.push({ path: `mappings[${i}].target`, problem: 'is missing' })
    else if (isSameTable(source, target))
      findings.push({
        path: `mappings[${i}].target`,
        problem: 'is the source itself; new columns of the same table are kind "column"',
      })
  })
  for (const setting of ['columns', 'columnIndexes'] as const)
    if (expand[setting] !== undefined)
      findings.push({ path: `expand.${setting}`, problem: 'is for kind "column"; describe expand.tables' })
  return findings
}

/** What a definition of kind `column` must have, and what it cannot use. */
export function checkColumnKind({ mappings, expand, cutover }: ParsedDefinition): Finding[] {
  const findings: Finding[] = []
  const find = (path: string, problem: string): void => void findings.push({ path, problem })
  const everyReplaced = expand.columns?.flatMap(({ table, replaces = [] }) =>
    replaces.map((name) => `${formatTable(table)}.${name}`),
  )
  const isOneForOne =
    new Set(everyReplaced).size === everyReplaced?.length &&
    expand.columns?.every(({ replaces = [] }) => replaces.length <= 1) === true
  if (cutover.mode === 'swap' && (!isOneForOne || everyReplaced.length === 0))
    find(
      'cutover.mode',
      'swap exchanges names one for one: each old column needs the one new column that replaces it',
    )
  if (expand.tables.length > 0)
    find('expand.tables', 'is for kind "table"; describe new columns in expand.columns')
  mappings.forEach((mapping, i) => {
    const at = `mappings[${i}]`
    const { source, target, key, columns, reverse } = mapping
    if (target !== undefined && !isSameTable(source, target))
      find(`${at}.target`, 'is another table; for kind "column" leave it out')
    if (mapping.dependsOn !== undefined)
      find(`${at}.dependsOn`, 'is for kind "table"; a row of this kind is computed from itself alone')
    if (mapping.where !== undefined)
      find(`${at}.where`, 'is for kind "table"; put a CASE into the expressions')
    if (mappings.slice(0, i).some((other) => isSameTable(other.source, source)))
      find(`${at}.source`, `has a mapping already; put all columns of ${formatTable(source)} into one`)
    if (Object.keys(columns).length === 0) find(`${at}.columns`, 'names no column')
    for (const [from, to] of Object.entries(key))
      if (from !== to)
        find(
          `${at}.key.${from}`,
          'names another column; name the key for itself, also where `replaces` names it',
        )
    for (const [name, expression] of Object.entries(columns))
      if (expression === true)
        find(`${at}.columns.${name}`, 'true means a column of the same name, and this is the same table')
    const replaced = expand.columns?.filter((column) => isSameTable(column.table, source)) ?? []
    for (const name of replaced.flatMap(({ replaces = [] }) => replaces))
      if (name in columns) find(`${at}.columns.${name}`, 'is replaced by another new column')
    if (reverse === false) return
    if (Object.keys(reverse.columns).length === 0) find(`${at}.reverse.columns`, 'names no column; say false')
    const paired = new Set(pairsOf({ expand }, mapping).flatMap((pair) => pair.old))
    for (const [name, expression] of Object.entries(reverse.columns)) {
      if (!paired.has(name))
        find(`${at}.reverse.columns.${name}`, 'is replaced by no new column; name it in `replaces` of one')
      if (name in columns) find(`${at}.reverse.columns.${name}`, 'is a column of the new side')
      if (expression === true)
        find(
          `${at}.reverse.columns.${name}`,
          'true means a column of the same name, and this is the same table',
        )
    }
  })
  expand.columns?.forEach(({ table, name, replaces = [] }, i) => {
    const at = `expand.columns[${i}]`
    const mapping = mappings.find(({ source }) => isSameTable(source, table))
    if (mapping === undefined) find(`${at}.table`, 'is the source of no mapping')
    else if (!(name in mapping.columns))
      find(`${at}.name`, `is filled by no mapping of ${formatTable(table)}`)
    if (cutover.mode !== 'swap' && mapping && replaces.some((old) => old in mapping.key))
      find(`${at}.replaces`, 'is a key column; only cutover.mode "swap" gives its name to another')
    const isTwice = expand.columns
      ?.slice(0, i)
      .some((other) => isSameTable(other.table, table) && other.name === name)
    if (isTwice) find(`${at}.name`, 'is described twice')
  })
  expand.columnIndexes?.forEach(({ table }, i) => {
    if (!mappings.some(({ source }) => isSameTable(source, table)))
      find(`expand.columnIndexes[${i}].table`, 'is the source of no mapping')
  })
  return findings
}

/** What the application has to know of its own writes; where it cannot, triggers do. */
export function checkSync({ kind, sync, mappings, cutover }: ParsedDefinition): Finding[] {
  const findings: Finding[] = []
  const find = (path: string, problem: string): void => void findings.push({ path, problem })
  if (sync.method === 'trigger') {
    if (sync.alsoTriggers !== undefined) find('sync.alsoTriggers', 'is for sync.method "application"')
    return findings
  }
  if (kind !== 'table') find('sync.method', '"application" is for kind "table"; use "trigger"')
  if (cutover.mode === 'swap')
    find(
      'cutover.mode',
      'swap gives the application’s statements another table under the same name, and needs no change of it; use "flags", or sync.method "trigger"',
    )
  mappings.forEach(({ dependsOn = [] }, i) => {
    dependsOn.forEach((one, d) => {
      if ('on' in one)
        find(
          `mappings[${i}].dependsOn[${d}]`,
          'is followed by triggers only; use sync.method "trigger", or say `constant: true`',
        )
    })
  })
  return findings
}
