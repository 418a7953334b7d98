import { personGates, type PersonGate } from './gates.ts'

/**
 * What people and scripts send to a running migration. One JSON argument each, the same for signal and update. Payloads are
 * checked here without throwing: a handler that throws would stop the workflow, so a wrong payload is refused and recorded.
 */

export interface Approval {
  readonly gate: PersonGate
  /** Who approves. The UI sends no identity of its own. */
  readonly by: string
  /** For expand and contract: the token that the plan and the current details show. */
  readonly token?: string
  readonly note?: string
}

export interface AbortRequest {
  readonly by: string
  readonly reason?: string
  /** Also take back everything that expand created. Default true before cutover's end, never once the new side is primary. */
  readonly cleanUp?: boolean
}

export interface PauseRequest {
  readonly by: string
  readonly reason?: string
}

export type ResumeRequest = PauseRequest

/** Settings that change while lanes run. */
export interface LiveSettings {
  readonly batchSize?: number
  readonly maxBatchSize?: number
  readonly maxConcurrency?: number
  readonly rateLimitMs?: number
  readonly targetChunkMs?: number
  readonly maxReplicationLagSec?: number
  readonly profile?: 'gentle' | 'fast'
}

export interface ConfigureRequest extends LiveSettings {
  readonly by: string
}

export type Parsed<T> =
  { readonly ok: true; readonly value: T } | { readonly ok: false; readonly problem: string }

const refuse = (problem: string): { ok: false; problem: string } => ({ ok: false, problem })

function fields(payload: unknown, known: readonly string[]): Parsed<Record<string, unknown>> {
  if (typeof payload !== 'object' || payload === null || Array.isArray(payload))
    return refuse('the payload must be one JSON object')
  const unknown = Object.keys(payload).find((key) => !known.includes(key))
  if (unknown !== undefined)
    return refuse(`"${unknown.slice(0, 40)}" is not known; the fields are ${known.join(', ')}`)
  return { ok: true, value: payload as Record<string, unknown> }
}

const longest = 500

function person(value: Record<string, unknown>, texts: readonly string[]): string | undefined {
  if (typeof value['by'] !== 'string' || value['by'].trim() === '') return '"by" must name who sends this'
  for (const key of ['by', ...texts]) {
    const text = value[key]
    if (text !== undefined && typeof text !== 'string') return `"${key}" must be text`
    if (typeof text === 'string' && text.length > longest)
      return `"${key}" is longer than ${longest} characters`
  }
  return undefined
}

export function parseApproval(payload: unknown): Parsed<Approval> {
  const parsed = fields(payload, ['gate', 'by', 'token', 'note'])
  if (!parsed.ok) return parsed
  const { value } = parsed
  if (!personGates.includes(value['gate'] as PersonGate))
    return refuse(`"gate" must be one of ${personGates.join(', ')}`)
  const problem = person(value, ['token', 'note'])
  return problem === undefined ? { ok: true, value: value as unknown as Approval } : refuse(problem)
}

export function parseAbort(payload: unknown): Parsed<AbortRequest> {
  const parsed = fields(payload, ['by', 'reason', 'cleanUp'])
  if (!parsed.ok) return parsed
  const { value } = parsed
  if (value['cleanUp'] !== undefined && typeof value['cleanUp'] !== 'boolean')
    return refuse('"cleanUp" must be true or false')
  const problem = person(value, ['reason'])
  return problem === undefined ? { ok: true, value: value as unknown as AbortRequest } : refuse(problem)
}

export function parsePause(payload: unknown): Parsed<PauseRequest> {
  const parsed = fields(payload, ['by', 'reason'])
  if (!parsed.ok) return parsed
  const problem = person(parsed.value, ['reason'])
  return problem === undefined
    ? { ok: true, value: parsed.value as unknown as PauseRequest }
    : refuse(problem)
}

const limits: Record<
  Exclude<keyof LiveSettings, 'profile'>,
  { readonly least: number; readonly most: number; readonly whole: boolean }
> = {
  batchSize: { least: 1, most: 1_000_000, whole: true },
  maxBatchSize: { least: 1, most: 1_000_000, whole: true },
  maxConcurrency: { least: 1, most: 64, whole: true },
  rateLimitMs: { least: 0, most: 3_600_000, whole: false },
  targetChunkMs: { least: 1, most: 60_000, whole: false },
  maxReplicationLagSec: { least: 0.001, most: 86_400, whole: false },
}

export function parseConfigure(payload: unknown): Parsed<ConfigureRequest> {
  const known = [...Object.keys(limits), 'profile']
  const parsed = fields(payload, ['by', ...known])
  if (!parsed.ok) return parsed
  const { value } = parsed
  for (const [key, limit] of Object.entries(limits)) {
    const number = value[key]
    if (number === undefined) continue
    if (
      typeof number !== 'number' ||
      !(number >= limit.least && number <= limit.most) ||
      (limit.whole && !Number.isInteger(number))
    )
      return refuse(
        `"${key}" must be a ${limit.whole ? 'whole ' : ''}number from ${limit.least} to ${limit.most}`,
      )
  }
  if (value['profile'] !== undefined && value['profile'] !== 'gentle' && value['profile'] !== 'fast')
    return refuse('"profile" must be gentle or fast')
  if (!known.some((key) => key in value))
    return refuse(`nothing to configure; the settings are ${known.join(', ')}`)
  const problem = person(value, [])
  return problem === undefined ? { ok: true, value: value as unknown as ConfigureRequest } : refuse(problem)
}
