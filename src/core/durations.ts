/** Durations as people write them in a definition: `500ms`, `30s`, `10m`, `2h`, `3d`, `1w`, or a number of milliseconds. */

const unitMs: Record<string, number> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
  w: 604_800_000,
}

export const durationPattern = /^\d+(\.\d+)?\s*(ms|s|m|h|d|w)$/

/** Milliseconds of `text`, or undefined where it is no duration. */
export function parseDurationMs(text: string | number): number | undefined {
  if (typeof text === 'number') return Number.isFinite(text) && text >= 0 ? text : undefined
  if (!durationPattern.test(text.trim())) return undefined
  const [, number, unit] = /^([\d.]+)\s*([a-z]+)$/.exec(text.trim()) ?? []
  return Number(number) * (unitMs[unit ?? ''] ?? NaN)
}

/** `93784000` → `1d 2h 3m`: the two or three largest units, for people. */
export function formatDuration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)}ms`
  const parts: string[] = []
  let rest = ms < 60_000 ? Math.round(ms / 100) * 100 : Math.round(ms / 1000) * 1000
  for (const [unit, size] of [
    ['d', 86_400_000],
    ['h', 3_600_000],
    ['m', 60_000],
  ] as const) {
    if (rest >= size) parts.push(`${Math.floor(rest / size)}${unit}`)
    rest %= size
  }
  if (rest > 0 && parts.length < 2)
    parts.push(`${parts.length === 0 ? rest / 1000 : Math.round(rest / 1000)}s`)
  return parts.slice(0, 3).join(' ')
}

/** `2026-11-25 02:43:40` in UTC, of milliseconds since the epoch. */
export function formatInstant(at: number): string {
  // eslint-disable-next-line no-restricted-globals -- formats its argument; reads no clock
  return new Date(at).toISOString().slice(0, 19).replace('T', ' ')
}
