import type { MeterProvider } from '@opentelemetry/api'
import { nameOf, type Metric } from './metrics.ts'

export type Attributes = Readonly<Record<string, string>>

/** Called with each measurement: its full name, its value, and what it belongs to. */
export type OnMetric = (name: string, value: number, attributes: Attributes) => void

/** What the definition says about the metrics of its migration. */
export interface MetricSettings {
  readonly prefix: string
  readonly enabled: boolean
}

/** Takes a measurement. Never throws: who listens may have a problem, whoever measures has none. */
export type Measure = (
  metric: Metric,
  value: number,
  attributes: Attributes,
  settings: MetricSettings,
) => void

/**
 * Measurements go to `onMetric`, and to OpenTelemetry where its API is installed: then the first call of this loads it.
 * What `@opentelemetry/api` finds no SDK for it drops by itself.
 */
export async function createMeasure(onMetric: OnMetric | undefined): Promise<Measure> {
  const toOpenTelemetry = await openTelemetry()
  return (metric, value, attributes, { prefix, enabled }) => {
    if (!enabled) return
    const name = nameOf(metric, prefix)
    quietly(() => onMetric?.(name, value, attributes))
    quietly(() => toOpenTelemetry?.(name, metric, value, attributes))
  }
}

type Take = (value: number, attributes: Attributes) => void

/** Instruments of whichever SDK is registered now: an application may register its own after it has joined the migration. */
async function openTelemetry(): Promise<
  ((name: string, metric: Metric, value: number, attributes: Attributes) => void) | undefined
> {
  const api = await import('@opentelemetry/api').catch(() => undefined) // an optional peer
  if (api === undefined) return undefined
  let provider: MeterProvider | undefined
  const instruments = new Map<string, Take>()
  return (name, metric, value, attributes) => {
    const current = api.metrics.getMeterProvider()
    if (current !== provider) {
      provider = current
      instruments.clear()
    }
    let take = instruments.get(name)
    if (take === undefined) {
      take = createInstrument(current, name, metric)
      instruments.set(name, take)
    }
    take(value, attributes)
  }
}

function createInstrument(provider: MeterProvider, name: string, { kind, unit, says }: Metric): Take {
  const meter = provider.getMeter('crossfade-db')
  const options = { unit, description: says }
  switch (kind) {
    case 'counter': {
      const counter = meter.createCounter(name, options)
      return (value, attributes) => counter.add(value, attributes)
    }
    case 'histogram': {
      const histogram = meter.createHistogram(name, options)
      return (value, attributes) => histogram.record(value, attributes)
    }
    case 'gauge': {
      const gauge = meter.createGauge(name, options)
      return (value, attributes) => gauge.record(value, attributes)
    }
  }
}

export function quietly(tell: () => void): void {
  try {
    tell()
  } catch {
    // whoever listens has a problem; requests have none
  }
}
