import { ActivityCancellationType, proxyActivities, proxyLocalActivities } from '@temporalio/workflow'
import type { Activities } from '../activities/contract.ts'

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

/** Flags are written in the worker that runs the workflow's code: no queue, no slot to wait for, so that abort is instant. */
export const flagActivities = proxyLocalActivities<Pick<Activities, 'setFlags' | 'returnTraffic'>>({
  startToCloseTimeout: '1 minute',
  retry: { initialInterval: '100 milliseconds', backoffCoefficient: 2, maximumInterval: '5 seconds' },
})
