import { asyncLocalStorage, Context } from '@temporalio/activity'
import { noopMetricMeter } from '@temporalio/common'

/** Runs an activity outside of a worker: nobody cancels it, and its heartbeats go to `report`. */
export function withActivityContext<T>(
  run: () => Promise<T>,
  report: (progress: unknown) => void,
): Promise<T> {
  const context = new Context(
    { attempt: 1 } as Context['info'],
    new Promise(() => undefined),
    new AbortController().signal,
    report,
    undefined,
    console as unknown as Context['log'],
    noopMetricMeter,
    {},
  )
  return asyncLocalStorage.run(context, run)
}
