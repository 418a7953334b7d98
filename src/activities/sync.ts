import { followPartitions } from '../sync/capture.ts'
import { applyChanges } from '../sync/apply-changes.ts'
import { drain, notDrained } from '../sync/drain.ts'
import type { Bodies } from './surroundings.ts'

const drainTimeoutMs = 30_000

/** Under load the log is never quite empty: what is left now is copied within the next round, or under the swap's lock. */
const drainedKeys = 100

export const syncActivities: Pick<Bodies, 'applyChanges' | 'drainChangeLog'> = {
  async applyChanges({ sliceSec, ...ref }, { enter, signal, report }) {
    const { place, groups } = await enter(ref)
    await followPartitions(place, [...groups.forward, ...groups.reverse])
    const { pending, oldestAgeSec } = await applyChanges(place, [...groups.forward, ...groups.reverse], {
      signal,
      until: Date.now() + sliceSec * 1000,
      report,
    })
    return { pending, oldestAgeSec }
  },

  async drainChangeLog({ direction, ...ref }, { enter, signal }) {
    const { place, groups } = await enter(ref)
    let pending = 0
    for (const group of groups[direction]) {
      const left = await drain(place, group, drainedKeys, drainTimeoutMs, signal)
      if (left > drainedKeys) throw notDrained(group, left, undefined)
      pending += left
    }
    return { pending, oldestAgeSec: 0 }
  },
}
