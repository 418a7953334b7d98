import { visibleLength } from './streams.ts'

const pad = (text: string, width: number): string =>
  text + ' '.repeat(Math.max(0, width - visibleLength(text)))

/** Columns as wide as their widest cell, two spaces apart, no lines: it can be piped into awk. */
export function renderTable(
  header: readonly string[],
  rows: readonly (readonly string[])[],
  style: (text: string) => string = (text) => text,
): string[] {
  const widths = header.map((title, i) =>
    Math.max(visibleLength(title), ...rows.map((row) => visibleLength(row[i] ?? ''))),
  )
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, i) => (i === cells.length - 1 ? cell : pad(cell, widths[i] ?? 0)))
      .join('  ')
      .trimEnd()
  return [style(line(header)), ...rows.map(line)]
}

/** `name  value` lines with the names padded alike. */
export function renderFields(
  fields: readonly (readonly [string, string])[],
  style: (text: string) => string = (text) => text,
): string[] {
  const width = Math.max(0, ...fields.map(([name]) => name.length))
  return fields.map(([name, value]) => `  ${style(pad(name, width))}  ${value}`)
}

export const formatCount = (value: number): string => Math.round(value).toLocaleString('en-US')

/** `1536` → `1.5 KiB`. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']
  let value = bytes
  let unit = 0
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit += 1
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`
}

/** One line of words as lines of at most `width`, where its words allow. */
export function wrap(line: string, width: number): string[] {
  const lines = ['']
  for (const word of line.split(' ')) {
    const last = lines.at(-1) ?? ''
    if (last !== '' && last.length + 1 + word.length > width) lines.push(word)
    else lines[lines.length - 1] = last === '' ? word : `${last} ${word}`
  }
  return lines
}
