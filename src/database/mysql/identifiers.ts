import type { TableName } from '../../core/link.ts'
import { CrossfadeError } from '../../errors/index.ts'

/**
 * The only place where a name becomes SQL. Names are stored in three bytes a character, and 64 of them; none ends with a space.
 * https://dev.mysql.com/doc/refman/9.7/en/identifiers.html, https://mariadb.com/kb/en/identifier-names/
 */
export function quoteIdentifier(name: string): string {
  if (name.length === 0 || name.length > 64 || /[\0\u{10000}-\u{10ffff}]|\s$/u.test(name))
    throw new CrossfadeError({
      kind: 'input',
      code: 'DATABASE.INVALID_IDENTIFIER',
      message: `${JSON.stringify(name)} cannot name anything in MySQL or MariaDB.`,
      mend: 'Use 1 to 64 characters, none of them NUL or beyond U+FFFF, and no space at the end.',
    })
  return `\`${name.replaceAll('`', '``')}\``
}

export const quoteTable = ({ schema, name }: TableName): string =>
  `${quoteIdentifier(schema)}.${quoteIdentifier(name)}`

/**
 * A string constant. It is read as it was written in our sessions only: backslashes escape there, and the character set is utf8mb4
 * (session.ts). https://dev.mysql.com/doc/refman/9.7/en/string-literals.html
 */
export const quoteLiteral = (text: string): string =>
  `'${text.replaceAll('\\', '\\\\').replaceAll("'", "''").replaceAll('\0', '\\0')}'`
