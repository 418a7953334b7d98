import type { WorkflowHandle } from '@temporalio/client'

type History = Awaited<ReturnType<WorkflowHandle['fetchHistory']>>
type Event = NonNullable<History['events']>[number]

/** How the server says that a message came while a task ended the run: it gives the task again, with the message. That is no fault. */
const overtaken: readonly number[] = [1, 31] // UNHANDLED_COMMAND, UNHANDLED_UPDATE of WorkflowTaskFailedCause

/** The tasks that a worker could not do: code that throws or does not fit to the history. */
export function failedTasks({ events }: Pick<History, 'events'>): Event[] {
  return (events ?? []).filter(({ workflowTaskFailedEventAttributes: failed }) => {
    if (!failed) return false
    return !overtaken.includes(failed.cause ?? 0)
  })
}
