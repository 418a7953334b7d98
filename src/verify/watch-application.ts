import { measuredBreach, type MeasuredLimits } from '../core/measured.ts'
import { rest, type Workplace } from '../copy/workplace.ts'

/** Instances tell every 0.9 s what they measure: twice as often, so that a breach is seen before they look again. */
const restBetweenLooksMs = 450

/** Looks at what the application's instances measure, again and again. @returns what is wrong, or undefined when the time is over. */
export async function watchApplication(
  { database, scope }: Workplace,
  limits: MeasuredLimits,
  { signal, until }: { readonly signal: AbortSignal; readonly until: number },
): Promise<string | undefined> {
  while (!signal.aborted && Date.now() < until) {
    const measured = await database.transaction((tx) => database.dialect.flags.measured(tx, scope), {
      readOnly: true,
    })
    const breach = measuredBreach(measured, limits)
    if (breach !== undefined) return breach
    await rest(restBetweenLooksMs, signal)
  }
  return undefined
}
