import { docsLink, isCrossfadeError, type ErrorEnvelope } from '../../errors/index.ts'
import type { Streams } from './streams.ts'

/** What was not one of ours is a bug of ours, unless it names a missing permission or file of the user's. */
export function toReportable(error: unknown): ErrorEnvelope & { readonly stack?: string | undefined } {
  if (isCrossfadeError(error)) return error
  const message = error instanceof Error ? error.message : String(error)
  const { code } = (error ?? {}) as NodeJS.ErrnoException
  if (code === 'EACCES' || code === 'EROFS' || code === 'ENOSPC' || code === 'ENOENT')
    return {
      kind: 'input',
      code: 'CLI.FILE',
      message: `${message}.`,
      mend: 'Mend the file or folder that it names, then try again.',
    }
  return {
    kind: 'bug',
    code: 'INTERNAL.UNEXPECTED',
    message: `${message}${message.endsWith('.') ? '' : '.'}`,
    mend: 'Run it again with --trace and report what it prints, with the versions of crossfade-db, Temporal and the database.',
    ...(error instanceof Error ? { stack: error.stack } : {}),
  }
}

/** `✖ message`, `→ mend`, `code · docs`; the stack and what caused it only with --trace. */
export function reportError(streams: Streams, error: unknown, { trace }: { readonly trace: boolean }): void {
  const { code, message, mend } = toReportable(error)
  const { noteStyle } = streams
  streams.note(`${noteStyle('red', '✖')} ${message}`)
  if (mend !== '') streams.note(`${noteStyle('cyan', '→')} ${mend}`)
  streams.note(noteStyle('dim', `${code} · ${docsLink(code)}`))
  if (trace) {
    for (let at: unknown = error; at instanceof Error; at = at.cause)
      streams.note(noteStyle('dim', `${at === error ? '' : 'caused by '}${at.stack ?? at.message}`))
  }
  // https://docs.github.com/actions/reference/workflow-commands-for-github-actions#setting-an-error-message
  if (process.env['GITHUB_ACTIONS'] === 'true')
    streams.note(
      `::error title=${code}::${`${message} → ${mend}`.replaceAll('%', '%25').replaceAll('\n', '%0A')}`,
    )
}
