/** What makes a workflow's input one, for those who start a migration without our client. */

const parts = [
  'mappings',
  'flags',
  'expand',
  'cutover',
  'retire',
  'contract',
  'backfill',
  'safety',
  'verify',
] as const

/** What is wrong with it, or undefined. The values inside were checked when the definition was resolved. */
export function inputProblem(input: unknown): string | undefined {
  if (!isObject(input)) return 'the input must be one JSON object'
  const { migration, fingerprint } = input
  if (typeof fingerprint !== 'string' || fingerprint === '') return '"fingerprint" is missing'
  if (!isObject(migration)) return '"migration" must be a definition with all its defaults'
  for (const key of ['name', 'database'])
    if (typeof migration[key] !== 'string') return `"migration.${key}" is missing`
  for (const key of parts)
    if (!isObject(migration[key]))
      return `"migration.${key}" is missing: a definition needs all its defaults here`
  const { ramp } = migration['cutover'] as Record<string, unknown>
  if (!Array.isArray(ramp)) return '"migration.cutover.ramp" must be a list'
  return undefined
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null

/** The name of a database, from which the variable that holds its URL is made. */
export const databaseName = /^[a-z][a-z0-9_]*$/
