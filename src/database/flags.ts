import type { Measured } from '../core/measured.ts'
import type { Side } from '../core/phases.ts'
import type { Transaction } from './database.ts'
import type { Scope } from './steps.ts'

/** Flags as rows in the application's own database, and the instances of the application that act on them. */

export interface Flag {
  readonly key: string
  /** What holds: the lower of the two below. */
  readonly percent: number
  /** What the workflow has set last. */
  readonly wanted: number
  /** The most that a person allows; 100 where nobody has said anything. */
  readonly ceiling: number
  readonly epoch: number
}

/** An instance of the application, as it has announced itself. */
export interface Instance {
  readonly id: string
  readonly version: string
  /** What it acts on; -1 where it knew nothing yet. */
  readonly epoch: number
  /** Since it was last seen. */
  readonly ageSec: number
  /** Its lease has not run out: it may still act on what it knew. */
  readonly isLive: boolean
}

export interface Flags {
  /** The primary side, kept from changing until this transaction ends. */
  lockPrimary(tx: Transaction, scope: Scope): Promise<Side>
  /**
   * @param by.primary the side that is primary from now on; the same one as before where it is left out
   * @param by.order of this change: of two, the later one counts, in whatever order they come
   * @returns the new epoch
   * @throws `FLAGS.OVERTAKEN` where a change of a higher order has been made
   */
  set(
    tx: Transaction,
    scope: Scope,
    flags: Readonly<Record<string, number>>,
    by?: { readonly primary?: Side | undefined; readonly order?: number | undefined },
  ): Promise<number>
  /** The most that these flags may be, whatever the workflow sets; 100 lets it have its way again. @returns the new epoch */
  hold(tx: Transaction, scope: Scope, ceilings: Readonly<Record<string, number>>): Promise<number>
  read(
    tx: Transaction,
    scope: Scope,
  ): Promise<{ readonly flags: readonly Flag[]; readonly primary: Side; readonly epoch: number } | undefined>
  instances(tx: Transaction, scope: Scope): Promise<readonly Instance[]>
  /** What all instances have measured within the last minute. */
  measured(tx: Transaction, scope: Scope): Promise<Measured>
  /** What they have measured so far speaks of a state that is gone. */
  forgetMeasured(tx: Transaction, scope: Scope): Promise<void>
}
