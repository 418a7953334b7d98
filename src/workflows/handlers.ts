import type { SignalDefinition, UpdateDefinition } from '@temporalio/common'
import { log, setDefaultSignalHandler, setHandler } from '@temporalio/workflow'
import { tokenGates } from '../core/gates.ts'
import {
  parseAbort,
  parseApproval,
  parseConfigure,
  parsePause,
  type AbortRequest,
  type Approval,
  type ConfigureRequest,
  type Parsed,
  type PauseRequest,
  type ResumeRequest,
} from '../core/messages.ts'
import { record, toStatus } from '../core/state.ts'
import * as messages from './messages.ts'
import type { MigrationRun } from './run.ts'

/**
 * Handlers are synchronous, only record, and never throw: an error thrown here would stop the workflow for good. What is wrong is
 * refused and shown. The update of the same name runs the same check as its validator, so that its sender sees the reason.
 */
interface Message<T> {
  /** What is wrong with the payload, or with its moment. */
  check(payload: unknown): Parsed<T>
  /** Records it; returns the answer to an update. */
  accept(value: T): string
}

export function wireMessages(run: MigrationRun): void {
  wire(
    run,
    messages.approve,
    messages.approveUpdate,
    approving(run),
    'Opens the gate that waits: {"gate":"expand","by":"your name","token":"…"}',
  )
  wire(
    run,
    messages.abort,
    messages.abortUpdate,
    aborting(run),
    'Returns traffic to the old side, then winds down: {"by":"your name","reason":"…"}',
  )
  wire(
    run,
    messages.pause,
    messages.pauseUpdate,
    pausing(run),
    'Stops work without losing its place: {"by":"your name"}',
  )
  wire(
    run,
    messages.resume,
    messages.resumeUpdate,
    resuming(run),
    'Goes on after a pause or a failure: {"by":"your name"}',
  )
  wire(
    run,
    messages.configure,
    messages.configureUpdate,
    configuring(run),
    'Changes limits while it runs: {"by":"your name","maxReplicationLagSec":20}',
  )
  setHandler(messages.status, () => toStatus(run.state), { description: 'Where the migration stands' })
  setHandler(messages.plan, () => run.state.plan, { description: 'What it will do, with locks and token' })
  setHandler(messages.audit, () => run.state.audit, { description: 'Who did what, when' })
  setDefaultSignalHandler((name) => {
    log.warn('unknown signal', { name })
    refused(run, name, 'there is no such signal')
  })
}

function refused(run: MigrationRun, name: string, problem: string): void {
  record(run.state, Date.now(), `refused ${name}: ${problem}`)
  run.show()
}

function wire<T>(
  run: MigrationRun,
  signal: SignalDefinition<[T]>,
  update: UpdateDefinition<string, [T]>,
  message: Message<T>,
  description: string,
): void {
  const take = (payload: unknown): string => {
    const parsed = message.check(payload)
    if (!parsed.ok) {
      refused(run, signal.name, parsed.problem)
      return `refused: ${parsed.problem}`
    }
    const answer = message.accept(parsed.value)
    run.show()
    return answer
  }
  setHandler(signal, (payload) => void take(payload), { description })
  setHandler(update, take, {
    description,
    validator: (payload) => {
      const parsed = message.check(payload)
      // A validator's throw is how an update is refused: nothing is written, and the sender reads the reason.
      if (!parsed.ok) throw refusal(parsed.problem)
    },
  })
}

const refusal = (problem: string): Error =>
  Object.assign(Object.create(Error.prototype) as Error, {
    name: 'Refused',
    message: problem,
    stack: `Refused: ${problem}`, // the UI shows it below the message
  })

function approving(run: MigrationRun): Message<Approval> {
  return {
    check(payload) {
      const parsed = parseApproval(payload)
      if (!parsed.ok) return parsed
      const { gate, token } = parsed.value
      const { gate: open, abort, trouble } = run.state
      if (abort) return { ok: false, problem: `${abort.by} aborted it` }
      if (trouble)
        return { ok: false, problem: `it needs a person first (${trouble.code}); resume or abort it` }
      if (!open) return { ok: false, problem: `no gate is open now (approval of ${gate})` }
      if (open.gate !== gate) return { ok: false, problem: `the open gate is ${open.gate}, not ${gate}` }
      if (open.approval) return { ok: false, problem: `${gate} was approved by ${open.approval.by} already` }
      if (tokenGates.includes(gate) && token !== open.token)
        return {
          ok: false,
          problem: `the token does not fit; the plan that waits for approval has ${open.token ?? 'none'}`,
        }
      return parsed
    },
    accept(approval) {
      if (run.state.gate) run.state.gate.approval = { ...approval, at: Date.now() }
      record(
        run.state,
        Date.now(),
        `approved ${approval.gate}${approval.note === undefined ? '' : `: ${approval.note}`}`,
        approval.by,
      )
      return `${approval.gate} is approved`
    },
  }
}

function aborting(run: MigrationRun): Message<AbortRequest> {
  return {
    check(payload) {
      const parsed = parseAbort(payload)
      if (parsed.ok && run.state.abort)
        return { ok: false, problem: `${run.state.abort.by} aborted it already` }
      return parsed
    },
    accept(request) {
      run.abort(request)
      return run.state.canGoBack
        ? 'traffic returns to the old side'
        : 'the old side is no longer in step: traffic stays on the new side'
    },
  }
}

function pausing(run: MigrationRun): Message<PauseRequest> {
  return {
    check(payload) {
      const parsed = parsePause(payload)
      const { abort, paused } = run.state
      if (parsed.ok && abort) return { ok: false, problem: `${abort.by} aborted it` }
      if (parsed.ok && paused) return { ok: false, problem: `${paused.by} paused it already` }
      return parsed
    },
    accept(request) {
      run.state.paused = { ...request, at: Date.now() }
      record(
        run.state,
        Date.now(),
        `paused${request.reason === undefined ? '' : `: ${request.reason}`}`,
        request.by,
      )
      run.interruptWork()
      return 'paused; both sides stay in step meanwhile'
    },
  }
}

function resuming(run: MigrationRun): Message<ResumeRequest> {
  return {
    check(payload) {
      const parsed = parsePause(payload)
      if (parsed.ok && !run.state.paused && !run.state.trouble)
        return { ok: false, problem: 'it is not paused and waits for nobody to resume it' }
      return parsed
    },
    accept(request) {
      run.state.paused = undefined
      run.state.trouble = undefined
      record(run.state, Date.now(), 'resumed', request.by)
      return 'it goes on'
    },
  }
}

function configuring(run: MigrationRun): Message<ConfigureRequest> {
  return {
    check(payload) {
      const parsed = parseConfigure(payload)
      const { abort } = run.state
      return parsed.ok && abort ? { ok: false, problem: `${abort.by} aborted it` } : parsed
    },
    accept({ by, ...settings }) {
      run.state.settings = { ...run.state.settings, ...settings }
      record(
        run.state,
        Date.now(),
        `configured ${Object.entries(settings)
          .map(([key, value]) => `${key} ${String(value)}`)
          .join(', ')}`,
        by,
      )
      run.interruptSlices()
      return 'the lanes go on with it'
    },
  }
}
