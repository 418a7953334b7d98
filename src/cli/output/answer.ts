import { tokenGates, type PersonGate } from '../../core/gates.ts'
import type { MigrationStatus } from '../../client.ts'

/** What a migration waits for, why, and the very command that answers. */
export interface Waiting {
  readonly on: string
  readonly why: string | undefined
  readonly command: string
}

/** Undefined while it works, holds by itself, or has ended. Without a worker's answer Temporal's own record must do. */
export function waitingOf({ name, detail, execution, waitingFor }: MigrationStatus): Waiting | undefined {
  if (execution !== 'RUNNING') return undefined
  if (!detail) return waitingByRecord(name, waitingFor)
  const { trouble, paused, gate } = detail
  if (detail.abort) return undefined
  if (trouble)
    return {
      on: `a person: ${trouble.code}`,
      why: `${trouble.message} ${trouble.mend}`,
      command: `crossfade resume ${name}`,
    }
  if (paused)
    return {
      on: 'resume',
      why: `Paused by ${paused.by}${paused.reason === undefined ? '' : `: ${paused.reason}`}.`,
      command: `crossfade resume ${name}`,
    }
  if (gate && !gate.approval)
    return {
      on: `approval of ${gate.gate}`,
      why: gate.why,
      command: approveCommand(name, gate.gate, gate.token),
    }
  return undefined
}

function approveCommand(name: string, gate: PersonGate, token: string | undefined): string {
  const needsToken = tokenGates.includes(gate)
  return [
    `crossfade approve ${name} --gate ${gate}`,
    ...(needsToken ? [`--token ${token ?? 'TOKEN'}`] : []),
    ...(gate === 'contract' ? [`--confirm ${name}`] : []),
  ].join(' ')
}

function waitingByRecord(name: string, waitingFor: string): Waiting | undefined {
  const gate = /^approval of (expand|cutover|retire|contract)$/.exec(waitingFor)?.[1] as
    PersonGate | undefined
  if (gate) {
    const why = tokenGates.includes(gate) ? `\`crossfade plan ${name}\` shows the token.` : undefined
    return { on: waitingFor, why, command: approveCommand(name, gate, undefined) }
  }
  if (waitingFor === 'resume' || waitingFor.startsWith('a person:'))
    return { on: waitingFor, why: undefined, command: `crossfade resume ${name}` }
  return undefined
}
