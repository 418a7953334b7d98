import { styleText } from 'node:util'

/** One at a time: Node 20 does not ask the stream where it is given a list. */
type Style = Exclude<Parameters<typeof styleText>[0], unknown[]>

/** The only writer of the command line: data to stdout, all else to stderr, secrets masked on the way. */
export interface Streams {
  /** A line of data. */
  out(line: string): void
  /** A line for people: progress, hints, warnings, errors. */
  note(line: string): void
  /** Replaces what the last call of `draw` has drawn on stdout. For terminals only. */
  draw(lines: readonly string[]): void
  /** Styled for stdout, where stdout shows colours. */
  style(style: Style, text: string): string
  /** Styled for stderr, where stderr shows colours. */
  noteStyle(style: Style, text: string): string
  /** True where a person looks at stdout. */
  readonly isTerminal: boolean
  /** True where somebody can be asked: stdin is a terminal, and this is no CI. */
  readonly canAsk: boolean
  readonly columns: number
  /** Reads a line from the terminal; the question goes to stderr. */
  ask(question: string): Promise<string>
  /** Resolves when everything is written. */
  flush(): Promise<void>
}

/** The password of any URL in `text` becomes `***`; the word "password" in an example is none. */
export function maskSecrets(text: string): string {
  return text.replace(/\b([a-z][a-z0-9+.-]*:\/\/[^\s:@/"'`]*):(?!password@)[^\s"'`]*@/gi, '$1:***@')
}

/** Colours are decided per stream by NO_COLOR, FORCE_COLOR and whether it is a terminal. */
function styler(stream: NodeJS.WriteStream, environment: NodeJS.ProcessEnv) {
  const isDumb = environment['TERM'] === 'dumb' && environment['FORCE_COLOR'] === undefined
  return (style: Style, text: string): string =>
    isDumb ? text : styleText(style, text, { validateStream: true, stream })
}

export function createStreams(process: NodeJS.Process): Streams {
  const { stdout, stderr, stdin, env } = process
  // A reader that went away (`| head`) is no error of ours.
  for (const stream of [stdout, stderr])
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EPIPE') process.exit(0)
      throw error
    })
  let drawn = 0
  const columns = (): number => stdout.columns || 80
  const settled = (stream: NodeJS.WriteStream): Promise<void> =>
    new Promise((resolve) => stream.write('', () => resolve()))
  return {
    out(line) {
      drawn = 0
      stdout.write(`${maskSecrets(line)}\n`)
    },
    note(line) {
      drawn = 0
      stderr.write(`${maskSecrets(line)}\n`)
    },
    draw(lines) {
      const back = drawn === 0 ? '' : `\u001b[${drawn}A\r`
      stdout.write(`${back}\u001b[J${maskSecrets(lines.map((line) => fit(line, columns())).join('\n'))}\n`)
      drawn = lines.length
    },
    style: styler(stdout, env),
    noteStyle: styler(stderr, env),
    isTerminal: Boolean(stdout.isTTY) && env['TERM'] !== 'dumb',
    canAsk: Boolean(stdin.isTTY) && Boolean(stderr.isTTY) && !env['CI'],
    get columns() {
      return columns()
    },
    async ask(question) {
      const { createInterface } = await import('node:readline/promises')
      const reader = createInterface({ input: stdin, output: stderr })
      try {
        return await reader.question(question)
      } finally {
        reader.close()
      }
    },
    async flush() {
      await settled(stdout)
      await settled(stderr)
    },
  }
}

const escapes = /\u001b\[[0-9;]*m/g

/** `line` cut to `width` visible characters, so that a drawn page has as many rows as it has lines. */
export function fit(line: string, width: number): string {
  if (line.replace(escapes, '').length <= width) return line
  let visible = 0
  let result = ''
  for (let i = 0; i < line.length;) {
    escapes.lastIndex = i
    const escape = escapes.exec(line)
    if (escape && escape.index === i) {
      result += escape[0]
      i += escape[0].length
      continue
    }
    if (visible < width - 1) result += line[i]
    visible += 1
    i += 1
  }
  return `${result}…`
}

/** How many characters of `text` are seen. */
export const visibleLength = (text: string): number => text.replace(escapes, '').length
