import type { Model, Step } from './explore.ts'
import type { Mutations } from './mutations.ts'

/**
 * Lanes that come for ranges until there is none, of which those after the steady ones may go before (src/copy/walk-ranges.ts, `claim`
 * and `leave` in src/database/postgres/ranges.ts). What is copied does not matter here, only that nobody's range is left behind.
 */
export interface Lanes {
  readonly ranges: readonly { readonly lane: number | null; readonly done: boolean }[]
  /** `over`: it found no range that is free. It does not come back. */
  readonly lanes: readonly ('looks' | 'copies' | 'leaves' | 'over')[]
}

export interface LanesConfiguration {
  readonly ranges: number
  readonly lanes: number
  readonly steady: number
}

export function lanesModel({ ranges, lanes, steady }: LanesConfiguration, without: Mutations): Model<Lanes> {
  return {
    initial: {
      ranges: Array.from({ length: ranges }, () => ({ lane: null, done: false })),
      lanes: Array.from({ length: lanes }, () => 'looks'),
    },
    steps: (s) => s.lanes.flatMap((_, lane) => laneSteps(s, lane, steady, without)),
    violation: (s, isOver) =>
      isOver && s.ranges.some(({ done }) => !done) ? 'a range is left, and no lane' : undefined,
  }
}

function laneSteps(s: Lanes, lane: number, steady: number, without: Mutations): Step<Lanes>[] {
  const step = (does: string, at: Lanes['lanes'][number], ranges = s.ranges): Step<Lanes> => ({
    actor: `L${lane}`,
    does,
    next: { ranges, lanes: s.lanes.map((was, n) => (n === lane ? at : was)) },
  })
  const changed = (n: number, to: Partial<Lanes['ranges'][number]>): Lanes['ranges'] =>
    s.ranges.map((range, i) => (i === n ? { ...range, ...to } : range))
  const own = s.ranges.findIndex((range) => range.lane === lane && !range.done)
  switch (s.lanes[lane]) {
    case 'looks': {
      const free = s.ranges.findIndex((range) => range.lane === null && !range.done)
      return [free < 0 ? step('finds none', 'over') : step('claims', 'copies', changed(free, { lane }))]
    }
    case 'copies': {
      const heirs = s.ranges.some((range) => !range.done && range.lane !== null && range.lane < steady)
      const mayLeave = heirs || without.has('leavesToNobody')
      return [
        step('ends its range', 'looks', changed(own, { done: true })),
        ...(lane < steady || !mayLeave
          ? []
          : without.has('leavesLater')
            ? [step('finds an heir', 'leaves')]
            : [step('leaves', 'over', changed(own, { lane: null }))]),
      ]
    }
    case 'leaves':
      return [step('leaves', 'over', changed(own, { lane: null }))]
    default:
      return []
  }
}
