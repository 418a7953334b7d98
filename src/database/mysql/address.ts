import { CrossfadeError } from '../../errors/index.ts'

/** Where a server is and who we are there. */
export interface Address {
  readonly host: string
  readonly port: number
  readonly user: string
  readonly password: string
  readonly database: string
  readonly ssl?: { readonly rejectUnauthorized: boolean }
}

/** As the servers' own clients call them: https://dev.mysql.com/doc/refman/9.7/en/connection-options.html#option_general_ssl-mode */
const sslModes: Readonly<Record<string, Address['ssl'] | undefined>> = {
  DISABLED: undefined,
  REQUIRED: { rejectUnauthorized: false },
  VERIFY_IDENTITY: { rejectUnauthorized: true },
}

/**
 * `mysql://user:password@host:3306/database?ssl-mode=VERIFY_IDENTITY`. The driver's own parser would take any of its options from a URL.
 * @throws `DATABASE.INVALID_URL`, without the URL: it may hold a password
 */
export function parseAddress(name: string, url: string): Address {
  const fail = (what: string): CrossfadeError =>
    new CrossfadeError({
      kind: 'input',
      code: 'DATABASE.INVALID_URL',
      message: `The URL of the database "${name}" ${what}.`,
      mend: 'Give it as mysql://user:password@host:3306/database, with special characters %-encoded, and at most ?ssl-mode=REQUIRED or VERIFY_IDENTITY.',
    })
  let parsed: URL
  let database: string
  let credentials: string[]
  try {
    parsed = new URL(url)
    database = decodeURIComponent(parsed.pathname.slice(1))
    credentials = [parsed.username, parsed.password].map(decodeURIComponent)
  } catch {
    throw fail('cannot be read')
  }
  if (database === '' || database.includes('/')) throw fail('names no database')
  const mode = parsed.searchParams.get('ssl-mode') ?? 'DISABLED'
  if (!Object.hasOwn(sslModes, mode) || [...parsed.searchParams.keys()].some((key) => key !== 'ssl-mode'))
    throw fail('has a parameter that is not known, or an ssl-mode that is none')
  const ssl = sslModes[mode]
  return {
    host: parsed.hostname.replace(/^\[|\]$/g, ''),
    port: Number(parsed.port || 3306),
    user: credentials[0] ?? '',
    password: credentials[1] ?? '',
    database,
    ...(ssl ? { ssl } : {}),
  }
}
