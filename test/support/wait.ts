import { setTimeout as delay } from 'node:timers/promises'

export interface EventuallyOptions {
  /** Default 10 000. */
  readonly timeoutMs?: number
  /** Default 25. */
  readonly intervalMs?: number
  /** What is waited for, for the message of a failure: "the lane to stop". */
  readonly what?: string
}

type Falsy = false | 0 | '' | null | undefined

/**
 * Waits until `condition` returns something true, and returns it. A condition that throws is tried again: its last error is
 * the cause of the failure when time is up.
 */
export async function eventually<T>(
  condition: () => T | Promise<T>,
  { timeoutMs = 10_000, intervalMs = 25, what = 'a condition' }: EventuallyOptions = {},
): Promise<Exclude<T, Falsy>> {
  const deadline = performance.now() + timeoutMs
  let cause: unknown
  for (;;) {
    try {
      const value = await condition()
      if (value) return value as Exclude<T, Falsy>
      cause = undefined
    } catch (error) {
      cause = error
    }
    if (performance.now() >= deadline) break
    await delay(intervalMs)
  }
  throw new Error(`Waited ${timeoutMs} ms for ${what}, in vain.`, cause === undefined ? undefined : { cause })
}
