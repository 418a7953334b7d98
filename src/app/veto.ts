import { setTimeout as delay } from 'node:timers/promises'
import type { Report } from './report.ts'

/** Whether a flag that is on for `key` may be acted on. */
export type IsAllowed = (flag: string, key: string) => boolean | Promise<boolean>

/** What has not answered by then has not allowed it. */
const answerMs = 50

/** Asks, and takes every failure for a no: the side that is primary is always right. */
export async function ask(isAllowed: IsAllowed, flag: string, key: string, report: Report): Promise<boolean> {
  const answered = new AbortController()
  try {
    const asked = isAllowed(flag, key)
    if (typeof asked === 'boolean') return asked
    const answer = await Promise.race([
      asked,
      delay(answerMs, undefined, { signal: answered.signal, ref: false }),
    ])
    if (answer === undefined)
      report.failed('The question whether the new side may be read', { code: 'time-out' })
    return answer === true
  } catch (error) {
    report.failed('The question whether the new side may be read', error)
    return false
  } finally {
    answered.abort()
  }
}
