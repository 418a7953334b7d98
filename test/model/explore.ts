/** One atomic step of one actor: what a session does between two points at which another session can come in between. */
export interface Step<State> {
  readonly actor: string
  /** The step's name: the replay against a real server finds the statement of ours by it. */
  readonly does: string
  /** What it met, for the reader of a trace. */
  readonly note?: string
  readonly next: State
}

export interface Model<State> {
  readonly initial: State
  /** Every step that some actor can take now, in a fixed order. A session that waits for a lock has none. */
  steps(state: State): Step<State>[]
  /** What is wrong with a state, or undefined. `isOver` is true where nobody can take a step any more. */
  violation(state: State, isOver: boolean): string | undefined
}

export interface TraceStep {
  readonly actor: string
  readonly does: string
  readonly note?: string
}

export interface Exploration {
  readonly states: number
  readonly counterexample?: { readonly violation: string; readonly trace: readonly TraceStep[] }
}

/** Reached states are kept as text; beyond this many the configuration is too large to be called small. */
const mostStates = 2_000_000

/**
 * Visits every reachable state, breadth first, and stops at the first one that violates the model: its trace is a shortest one.
 * A state is a plain value; two are the same where their JSON is.
 */
export function explore<State>(model: Model<State>): Exploration {
  const numbers = new Map<string, number>([[JSON.stringify(model.initial), 0]])
  // Where each state came from: the number of the state before, and the step as text.
  const before: number[] = [-1]
  const by: string[] = ['']
  let level: { readonly number: number; readonly state: State }[] = [{ number: 0, state: model.initial }]
  while (level.length > 0) {
    const following: typeof level = []
    for (const { number, state } of level) {
      const steps = model.steps(state)
      const violation = model.violation(state, steps.length === 0)
      if (violation !== undefined)
        return { states: numbers.size, counterexample: { violation, trace: traceTo(number, before, by) } }
      for (const { actor, does, note, next } of steps) {
        const text = JSON.stringify(next)
        if (numbers.has(text)) continue
        numbers.set(text, numbers.size)
        before.push(number)
        by.push(`${actor}|${does}|${note ?? ''}`)
        following.push({ number: numbers.size - 1, state: next })
      }
    }
    if (numbers.size > mostStates) throw new Error(`More than ${mostStates} states.`)
    level = following
  }
  return { states: numbers.size }
}

function traceTo(last: number, before: readonly number[], by: readonly string[]): TraceStep[] {
  const trace: TraceStep[] = []
  for (let number = last; number > 0; number = before[number] ?? 0) {
    const [actor = '', does = '', note = ''] = (by[number] ?? '').split('|')
    trace.unshift({ actor, does, ...(note === '' ? {} : { note }) })
  }
  return trace
}

export const writeTrace = (trace: readonly TraceStep[]): string =>
  trace.map(({ actor, does, note }) => `${actor} ${does}${note === undefined ? '' : ` (${note})`}`).join('\n')
