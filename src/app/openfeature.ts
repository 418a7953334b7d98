import {
  ErrorCode,
  StandardResolutionReasons,
  type Client,
  type EvaluationContext,
  type Provider,
  type ResolutionDetails,
} from '@openfeature/server-sdk'
import type { Crossfade, CrossfadeOptions } from './index.ts'

/**
 * The migration's flags for a team that evaluates through OpenFeature: each is a boolean, sticky by the context's `targetingKey`.
 * What `crossfade` knows is asked in memory; closing it stays its owner's.
 * @example
 * await OpenFeature.setProviderAndWait('orders', createProvider(crossfade))
 * await OpenFeature.getClient('orders').getBooleanValue('orders.new_schema_read', false, { targetingKey: String(id) })
 */
export function createProvider({ flags }: Pick<Crossfade, 'flags'>): Provider {
  const isNoBoolean = <T>(value: T): Promise<ResolutionDetails<T>> =>
    Promise.resolve(failure(value, ErrorCode.TYPE_MISMATCH, 'The flags of a migration are booleans.'))
  return {
    metadata: { name: 'crossfade' },
    runsOn: 'server',
    resolveBooleanEvaluation(flag, value, context) {
      return Promise.resolve(resolve(flags, flag, value, context))
    },
    resolveStringEvaluation: (_, value) => isNoBoolean(value),
    resolveNumberEvaluation: (_, value) => isNoBoolean(value),
    resolveObjectEvaluation: (_, value) => isNoBoolean(value),
  }
}

function resolve(
  flags: Crossfade['flags'],
  flag: string,
  value: boolean,
  { targetingKey }: EvaluationContext,
): ResolutionDetails<boolean> {
  if (!flags.isKnown(flag))
    return failure(value, ErrorCode.FLAG_NOT_FOUND, `No migration in this database has the flag ${flag}.`)
  if (targetingKey === undefined)
    return failure(value, ErrorCode.TARGETING_KEY_MISSING, 'A flag of a migration is sticky by a key.')
  return {
    value: flags.isOn(flag, targetingKey),
    reason: flags.isFresh ? StandardResolutionReasons.SPLIT : StandardResolutionReasons.STALE,
    flagMetadata: { epoch: flags.epoch, primary: flags.primary },
  }
}

const failure = <T>(value: T, errorCode: ErrorCode, errorMessage: string): ResolutionDetails<T> => ({
  value,
  reason: StandardResolutionReasons.ERROR,
  errorCode,
  errorMessage,
})

/**
 * A team's own provider as a veto: the new side is read where both say so. A flag that the provider does not know is off.
 * @example
 * await createCrossfade({ migration: 'orders', database: pool, isAllowed: allowedBy(OpenFeature.getClient()) })
 */
export function allowedBy(
  client: Pick<Client, 'getBooleanValue'>,
): NonNullable<CrossfadeOptions['isAllowed']> {
  return (flag, key) => client.getBooleanValue(flag, false, { targetingKey: key })
}
