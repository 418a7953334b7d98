import { rest, type Workplace } from '../copy/workplace.ts'
import type { Bodies } from './surroundings.ts'

/** Between two looks; an instance that has seen a change says so within milliseconds. */
const lookMs = 100

/** Names are for people; a history carries them. */
const mostNamed = 5
const longestName = 40

export const instanceActivities: Pick<Bodies, 'awaitInstances'> = {
  async awaitInstances({ sliceSec, ...ref }, { place, signal }) {
    const where = await place(ref)
    const deadline = performance.now() + sliceSec * 1000
    for (;;) {
      const found = await look(where)
      if (found.behind.length === 0 || performance.now() > deadline || signal.aborted)
        return { ...found, behind: nameSome(found.behind) }
      await rest(lookMs, signal)
    }
  },
}

/** In one transaction: an instance that announces itself between two statements has read the flags after the first. */
async function look({
  database,
  scope,
}: Workplace): Promise<{ behind: string[]; braked: string | undefined }> {
  const { flags } = database.dialect
  return database.transaction(
    async (tx) => {
      const now = await flags.read(tx, scope)
      if (!now) return { behind: [], braked: undefined }
      const live = (await flags.instances(tx, scope)).filter(({ isLive }) => isLive)
      const held = now.flags.filter(({ percent, wanted }) => percent < wanted)
      return {
        behind: live.filter(({ epoch }) => epoch !== now.epoch).map(({ id }) => id),
        braked:
          held.length === 0
            ? undefined
            : held
                .map(({ key, percent, wanted }) => `${key} at ${percent} % instead of ${wanted} %`)
                .join(', '),
      }
    },
    { readOnly: true },
  )
}

function nameSome(ids: readonly string[]): string[] {
  const names = ids
    .slice(0, mostNamed)
    .map((id) => (id.length > longestName ? `${id.slice(0, longestName)}…` : id))
  return ids.length > mostNamed ? [...names, `${ids.length - mostNamed} more`] : names
}
