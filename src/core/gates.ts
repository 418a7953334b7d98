import { observedParity, parityLowerBound, provesParity, type Comparisons } from './parity.ts'
import type { Phase } from './phases.ts'

/** Why a gate is shut, in words for the person who waits; open has no reason. */
export type GateState = { readonly open: true } | { readonly open: false; readonly reason: string }

export interface ParityEvidence {
  /** The last full comparison of stored rows: an exact statement about both sides at that time. */
  readonly full: Comparisons
  readonly rangesCompared: number
  /** Continuous sampling since. */
  readonly sample: Comparisons
}

export interface ParityLimits {
  readonly minParity: number
  readonly confidence: number
  readonly alertMismatchRatio: number
}

const percentText = (ratio: number): string => `${(100 * ratio).toFixed(4)} %`

/** The parity that a full comparison proves: exact, because nothing was left out. */
function fullParity({ full }: ParityEvidence): number {
  return observedParity(full) ?? 1
}

/** Cutover is never on luck: a check that ran on nothing is a failure, and a sample counts by its bound, not by its ratio. */
export function parityGate(evidence: ParityEvidence, limits: ParityLimits): GateState {
  if (evidence.rangesCompared === 0) return { open: false, reason: 'nothing was compared yet' }
  const parity = fullParity(evidence)
  if (parity < limits.minParity)
    return {
      open: false,
      reason: `the full comparison found parity ${percentText(parity)}, ${percentText(limits.minParity)} is asked for`,
    }
  const breach = sampleBreach(evidence.sample, limits)
  return breach === undefined ? { open: true } : { open: false, reason: breach }
}

/** True alarm only: the sampled mismatch ratio is above the limit and more than a single row of a small sample. */
export function sampleBreach(sample: Comparisons, limits: ParityLimits): string | undefined {
  const parity = observedParity(sample)
  if (parity === undefined || sample.mismatched < 2 || 1 - parity <= limits.alertMismatchRatio)
    return undefined
  return `sampling found ${sample.mismatched} mismatches in ${sample.compared} comparisons, more than ${percentText(limits.alertMismatchRatio)}`
}

export interface ParityStatement {
  readonly parity: number
  readonly lowerBound: number
  readonly confidence: number
  readonly compared: number
  readonly mismatched: number
  readonly proven: boolean
}

/** Parity as people read it. The full comparison is exact; sampling adds a bound that holds at any time. */
export function stateParity(evidence: ParityEvidence, limits: ParityLimits): ParityStatement {
  const { sample } = evidence
  return {
    parity: fullParity(evidence),
    lowerBound:
      evidence.rangesCompared > 0 ? fullParity(evidence) : parityLowerBound(sample, limits.confidence),
    confidence: limits.confidence,
    compared: evidence.full.compared,
    mismatched: evidence.full.mismatched,
    proven: parityGate(evidence, limits).open || provesParity(sample, limits.minParity, limits.confidence),
  }
}

/** Gates that a person opens. */
export const personGates = ['expand', 'cutover', 'retire', 'contract'] as const satisfies readonly Phase[]
export type PersonGate = (typeof personGates)[number]

/** Gates whose approval carries the token that the plan and the current details show. */
export const tokenGates: readonly PersonGate[] = ['expand', 'contract']
