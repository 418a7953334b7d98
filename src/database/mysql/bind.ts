import { CrossfadeError } from '../../errors/index.ts'
import { quoteLiteral } from './identifiers.ts'

/** What a `?` may stand in without being a parameter: literals, quoted names, comments. */
const piece =
  /'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`(?:[^`]|``)*`|--\s[^\n]*|#[^\n]*|\/\*[\s\S]*?\*\/|\?/g

/**
 * Puts values in the places of the parameters `?` of a statement. The driver's own way would replace a `?` within a user's literal,
 * and spread a list or an object over SQL; prepared statements would give values in the driver's words, not in the server's text.
 */
export function bind(sql: string, values: readonly unknown[] = []): string {
  let used = 0
  const bound = sql.replace(piece, (found) => (found === '?' ? toLiteral(values[used++]) : found))
  if (used !== values.length) throw misbound(`${used} parameters and ${values.length} values`)
  return bound
}

function toLiteral(value: unknown): string {
  if (value === null) return 'NULL'
  if (typeof value === 'string') return quoteLiteral(value)
  if (typeof value === 'boolean' || typeof value === 'bigint') return String(value)
  if (typeof value === 'number' && Number.isFinite(value)) return String(value)
  if (Buffer.isBuffer(value)) return `X'${value.toString('hex')}'`
  throw misbound(`a value of type ${typeof value}`)
}

function misbound(what: string): CrossfadeError {
  return new CrossfadeError({
    kind: 'bug',
    code: 'INTERNAL.UNEXPECTED',
    message: `A statement was given ${what}, which cannot be bound.`,
    mend: 'Please report this with the versions of crossfade-db, Temporal and the database.',
  })
}
