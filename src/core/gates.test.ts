import { expect, test } from 'vitest'
import { parityGate, sampleBreach, stateParity, type ParityEvidence } from './gates.ts'

const limits = { minParity: 0.9999, confidence: 0.95, alertMismatchRatio: 0.0001 }
const none = { compared: 0, mismatched: 0 }
const evidence = (change: Partial<ParityEvidence>): ParityEvidence => ({
  full: { compared: 100_000, mismatched: 0 },
  rangesCompared: 8,
  sample: none,
  ...change,
})

test('a check that ran on nothing does not open the gate', () => {
  expect(parityGate(evidence({ full: none, rangesCompared: 0 }), limits)).toEqual({
    open: false,
    reason: 'nothing was compared yet',
  })
  // Not even when a few samples were fine.
  expect(
    parityGate(evidence({ full: none, rangesCompared: 0, sample: { compared: 100, mismatched: 0 } }), limits),
  ).toMatchObject({ open: false })
  expect(stateParity(evidence({ full: none, rangesCompared: 0 }), limits)).toMatchObject({
    lowerBound: 0,
    proven: false,
  })
})

test('a full comparison is exact', () => {
  expect(parityGate(evidence({}), limits)).toEqual({ open: true })
  expect(parityGate(evidence({ full: { compared: 100_000, mismatched: 10 } }), limits)).toEqual({
    open: true,
  })
  expect(parityGate(evidence({ full: { compared: 100_000, mismatched: 11 } }), limits)).toEqual({
    open: false,
    reason: 'the full comparison found parity 99.9890 %, 99.9900 % is asked for',
  })
  expect(stateParity(evidence({ full: { compared: 1000, mismatched: 1 } }), limits)).toEqual({
    parity: 0.999,
    lowerBound: 0.999,
    confidence: 0.95,
    compared: 1000,
    mismatched: 1,
    proven: false,
  })
})

test('sampling shuts the gate again, but not for one row of a small sample', () => {
  expect(sampleBreach({ compared: 300, mismatched: 1 }, limits)).toBeUndefined()
  expect(sampleBreach({ compared: 100_000, mismatched: 10 }, limits)).toBeUndefined()
  expect(sampleBreach(none, limits)).toBeUndefined()
  const reason = 'sampling found 2 mismatches in 300 comparisons, more than 0.0100 %'
  expect(sampleBreach({ compared: 300, mismatched: 2 }, limits)).toBe(reason)
  expect(parityGate(evidence({ sample: { compared: 300, mismatched: 2 } }), limits)).toEqual({
    open: false,
    reason,
  })
})
