import { isCrossfadeError } from '../../src/errors/index.ts'

/** What a client sees of a connection that was killed. */
export const isLost = (error: unknown): boolean =>
  /terminat|Connection|not queryable|57P0|EPIPE|ECONNRESET|socket/.test(
    `${String(error)} ${(error as { code?: string }).code ?? ''}`,
  )

/** Runs `work` again and again until it ends well; what a killed connection throws is what a retried activity would see. */
export async function retried(work: () => Promise<boolean>): Promise<void> {
  for (;;)
    try {
      if (await work()) return
    } catch (error) {
      const known = isCrossfadeError(error)
        ? ['DATABASE.MAY_HAVE_COMMITTED', 'BACKFILL.FENCED'].includes(error.code)
        : isLost(error)
      if (!known && (error as { code?: string }).code !== '55P03') throw error
    }
}
