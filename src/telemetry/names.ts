/** The one list of metrics of the application's side; teams know these names from their own dual writes. */
export const applicationMetrics = {
  /** Reads that the new side could not answer, and the primary side did. Attribute `reason`: miss, error, time-out. */
  readFallback: 'db.read.fallback',
  /** Milliseconds that the read of a side took. Attribute `side`. */
  readDuration: 'db.read.duration',
  /** Reads of both sides that were compared. */
  shadowCompared: 'db.read.shadow.compared',
  /** Of these, different twice. */
  shadowMismatch: 'db.read.shadow.mismatch',
  /** Milliseconds that the new side took longer than the old one; less than 0 where it was quicker. */
  latencyDelta: 'db.read.latency_delta',
  /** Writes of the application, by the side that was primary. */
  oldWriteSuccess: 'db.legacy.write.success',
  newWriteSuccess: 'db.new.write.success',
  newWriteError: 'db.new.write.error',
  /** The epoch that the instance acts on. */
  flagEpoch: 'db.flag.epoch',
} as const

export type ApplicationMetric = (typeof applicationMetrics)[keyof typeof applicationMetrics]
