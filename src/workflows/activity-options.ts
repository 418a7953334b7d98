import {
  ActivityCancellationType,
  proxyActivities,
  proxyLocalActivities,
  workflowInfo,
} from '@temporalio/workflow'
import type { Activities } from '../activities/contract.ts'
import { flagQueueOf } from './messages.ts'

/** A dead worker is noticed after this time; every activity says at least every second that it lives. */
const heartbeatTimeout = '5 seconds'

/**
 * Activities under a short plain name, which the UI's Timeline and Pending Activities show. They are retried for as long as it
 * takes: what a retry cannot mend comes back at once as a failure that says so. A cancelled one is waited for, because DDL and
 * chunks must be known to have ended.
 */
export function activitiesFor(summary: string): Activities {
  return proxyActivities<Activities>({
    summary,
    startToCloseTimeout: '6 hours',
    heartbeatTimeout,
    // Eager, every lane would go to the worker that has just run the workflow's code, and the others would stand by.
    allowEagerDispatch: false,
    cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    retry: { initialInterval: '1 second', backoffCoefficient: 2, maximumInterval: '30 seconds' },
  })
}

export type FlagActivities = Pick<Activities, 'setFlags' | 'returnTraffic'>

const flagRetry = {
  initialInterval: '100 milliseconds',
  backoffCoefficient: 2,
  maximumInterval: '5 seconds',
} as const

/**
 * Flags have a queue of their own, which every worker serves beside the other one: a roll-back waits for no lane to leave its slot. A
 * worker that dies in the middle of a write is noticed after `heartbeatTimeout`, and one that hangs in it after `startToCloseTimeout`.
 */
export function flagActivitiesFor(summary: string): FlagActivities {
  const within = (startToCloseTimeout: '5 seconds' | '1 minute'): FlagActivities =>
    proxyActivities<FlagActivities>({
      summary,
      taskQueue: flagQueueOf(workflowInfo().taskQueue),
      startToCloseTimeout,
      heartbeatTimeout: '3 seconds',
      cancellationType: ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
      retry: flagRetry,
    })
  // To return traffic, names may have to be exchanged under locks that others hold.
  return { setFlags: within('5 seconds').setFlags, returnTraffic: within('1 minute').returnTraffic }
}

/** As runs that 0.1.0 opened write flags to their end: in the worker that runs the workflow's code, without a queue. */
export const localFlagActivities = proxyLocalActivities<FlagActivities>({
  startToCloseTimeout: '1 minute',
  retry: flagRetry,
})
