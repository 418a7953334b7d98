import type { Seen } from './ledger.ts'
import type { Found, Step } from './sides.ts'

/** What the service is asked and what it answers, as JSON. */

/** `POST /writes`. The same id again is the same request: who has not heard an answer asks once more. */
export interface WriteRequest {
  readonly id: string
  readonly steps: readonly Step[]
  readonly rollsBack: boolean
}

export interface WriteAnswer {
  readonly seen: readonly Seen[]
  /** The epoch of the flags that the instance acts on; -1 where there is none. */
  readonly epoch: number
}

/** To `GET /customers?id=…` and `GET /customers?email=…`. */
export interface ReadAnswer {
  readonly found?: Found
  /** The side that gave this answer. */
  readonly side: 'old' | 'new'
  readonly isFallback: boolean
  /** As the instance knew it when it was asked. */
  readonly primary: 'old' | 'new'
  readonly epoch: number
}
