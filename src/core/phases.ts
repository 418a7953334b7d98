/** The phases of a migration, in order. */
export const phases = ['expand', 'dual-write', 'backfill', 'verify', 'cutover', 'retire', 'contract'] as const

export type Phase = (typeof phases)[number]

/** Which side the application treats as the truth. */
export type Side = 'old' | 'new'

/** How a migration stands, seen from outside. */
export type Outcome = 'running' | 'done' | 'planned' | 'aborted' | 'failed'

/** True where `phase` comes before `other`. */
export function isBefore(phase: Phase, other: Phase): boolean {
  return phases.indexOf(phase) < phases.indexOf(other)
}
