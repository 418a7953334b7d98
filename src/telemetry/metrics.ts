/**
 * The one list of metrics. Those that teams know from dual writes of their own keep their names, and tell migrations apart by the attribute
 * `migration`; all others stand beneath `metrics.prefix` of the definition. docs/reference/metrics.md is checked against it.
 */

export interface Metric {
  readonly name: string
  /** Whether `metrics.prefix` and a dot go before the name. */
  readonly isPrefixed: boolean
  /** `counter`: values are added up. `histogram`: their distribution counts. `gauge`: the last one does. */
  readonly kind: 'counter' | 'histogram' | 'gauge'
  /** As UCUM has it. */
  readonly unit: string
  readonly says: string
  /** Beside `migration`, with the values that there are. */
  readonly attributes?: Readonly<Record<string, readonly string[]>>
}

const metric = <const M extends Omit<Metric, 'isPrefixed'>>(more: M): M & { isPrefixed: true } => ({
  ...more,
  isPrefixed: true,
})
const known = <const M extends Omit<Metric, 'isPrefixed'>>(more: M): M & { isPrefixed: false } => ({
  ...more,
  isPrefixed: false,
})

/** Of the application's side: one instance each. */
export const applicationMetrics = {
  oldWriteSuccess: known({
    name: 'db.legacy.write.success',
    kind: 'counter',
    unit: '{write}',
    says: 'Writes of the old side that succeeded.',
  }),
  oldWriteError: known({
    name: 'db.legacy.write.error',
    kind: 'counter',
    unit: '{write}',
    says: 'Writes of the old side that failed.',
  }),
  newWriteSuccess: known({
    name: 'db.new.write.success',
    kind: 'counter',
    unit: '{write}',
    says: 'Writes of the new side that succeeded.',
  }),
  newWriteError: known({
    name: 'db.new.write.error',
    kind: 'counter',
    unit: '{write}',
    says: 'Writes of the new side that failed.',
  }),
  writeLeft: metric({
    name: 'write.left',
    kind: 'counter',
    unit: '{key}',
    says: 'Keys that were not copied right after their commit, and that the appliers copy.',
    attributes: { reason: ['flag', 'rest', 'overload', 'error', 'time-out', 'taken'] },
  }),
  readDuration: metric({
    name: 'read.duration',
    kind: 'histogram',
    unit: 'ms',
    says: 'How long a side took to answer.',
    attributes: { side: ['old', 'new'] },
  }),
  readFallback: metric({
    name: 'read.fallback',
    kind: 'counter',
    unit: '{read}',
    says: 'Reads that the new side did not answer, so that the old one did.',
    attributes: { reason: ['miss', 'error', 'time-out'] },
  }),
  shadowCompared: metric({
    name: 'read.shadow.compared',
    kind: 'counter',
    unit: '{read}',
    says: 'Reads of both sides that were compared.',
  }),
  shadowMismatch: metric({
    name: 'read.shadow.mismatch',
    kind: 'counter',
    unit: '{read}',
    says: 'Of these, different twice.',
  }),
  latencyDelta: metric({
    name: 'read.latency_delta',
    kind: 'gauge',
    unit: 'ms',
    says: 'How much longer the new side took than the old one for the same question; less than 0 where it was quicker.',
  }),
  flagEpoch: metric({
    name: 'flag.epoch',
    kind: 'gauge',
    unit: '1',
    says: 'The epoch of the flags that the instance acts on; -1 where there is no migration.',
  }),
} as const satisfies Record<string, Metric>

/** Of the worker. */
export const workerMetrics = {
  backfillProgress: known({
    name: 'migration.backfill.progress',
    kind: 'gauge',
    unit: '1',
    says: 'The share of the source’s rows that the backfill has passed, 0 to 1.',
  }),
} as const satisfies Record<string, Metric>

export const defaultPrefix = (migration: string): string => `db.migration.${migration}`

export const nameOf = ({ name, isPrefixed }: Metric, prefix: string): string =>
  isPrefixed ? `${prefix}.${name}` : name
