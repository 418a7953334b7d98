import { record } from '../core/state.ts'
import type { MigrationRun } from './run.ts'

/** So long is one look, before people are told who is waited for: the first is short, and the next ones keep the history short. */
const firstSliceSec = 1
const sliceSec = 5

/**
 * Waits until every live instance of the application acts on the flags as they are now: what comes next may rest on it. A lease runs
 * out within seconds, so nobody is waited for long; a brake that somebody has put on waits for a person.
 * @returns the breach that ended it, where one is heeded.
 */
export async function everyInstance(
  run: MigrationRun,
  { heedBreach = false } = {},
): Promise<string | undefined> {
  if (run.flagWrites.areLocal) return undefined // 0.1.0 has opened it, and asks nobody
  const { state, ref } = run
  for (let isFirst = true; ; isFirst = false) {
    const { behind, braked } = await run.work('waiting for the application’s instances', (act) =>
      act.awaitInstances({ ...ref, sliceSec: isFirst ? firstSliceSec : sliceSec }),
    )
    showBehind(run, behind)
    if (heedBreach && state.breach !== undefined) {
      showBehind(run, [])
      return run.takeBreach()
    }
    if (braked !== undefined)
      await run.needPerson(
        {
          code: 'FLAGS.BRAKED',
          message: `Somebody holds a flag back: ${braked}.`,
          mend: `Let it go when its reason is over (\`crossfade flags ${ref.name} --set read=100\`), then resume.`,
        },
        { heedBreach },
      )
    else if (behind.length === 0) return undefined
  }
}

function showBehind(run: MigrationRun, behind: readonly string[]): void {
  const { state } = run
  if (behind.length > 0 && state.awaited === undefined)
    record(state, Date.now(), `waits for instances: ${behind.join(', ')}`)
  state.awaited = behind.length > 0 ? behind : undefined
  run.show()
}
