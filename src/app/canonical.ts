/**
 * A value as a text that does not depend on what says nothing of it: the order of an object's members, undefined ones, the class
 * of a date, a number's being a bigint. So the two sides' answers can be compared as they are.
 */
export function canonical(value: unknown): string {
  return JSON.stringify(plain(value)) ?? 'undefined'
}

function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return value.toString()
  if (typeof value === 'number') return String(value)
  if (value === null || typeof value !== 'object') return value
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? 'no date' : value.toISOString()
  if (value instanceof Uint8Array) return Buffer.from(value).toString('hex')
  if (Array.isArray(value)) return value.map(plain)
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, member]) => member !== undefined)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, member]) => [name, plain(member)]),
  )
}
