import { defineQuery, defineSignal, defineUpdate } from '@temporalio/workflow'
import type {
  AbortRequest,
  Approval,
  ConfigureRequest,
  PauseRequest,
  ResumeRequest,
} from '../core/messages.ts'
import type { AuditEntry, PlanSummary, StatusView } from '../core/state.ts'

/** The messages of a migration. A signal always works, from the UI too; the update of the same name answers at once. */
export const approve = defineSignal<[Approval]>('approve')
export const abort = defineSignal<[AbortRequest]>('abort')
export const pause = defineSignal<[PauseRequest]>('pause')
export const resume = defineSignal<[ResumeRequest]>('resume')
export const configure = defineSignal<[ConfigureRequest]>('configure')

export const approveUpdate = defineUpdate<string, [Approval]>('approve')
export const abortUpdate = defineUpdate<string, [AbortRequest]>('abort')
export const pauseUpdate = defineUpdate<string, [PauseRequest]>('pause')
export const resumeUpdate = defineUpdate<string, [ResumeRequest]>('resume')
export const configureUpdate = defineUpdate<string, [ConfigureRequest]>('configure')

export const status = defineQuery<StatusView>('status')
export const plan = defineQuery<PlanSummary | undefined>('plan')
export const audit = defineQuery<AuditEntry[]>('audit')

/** The id of a migration's workflow. */
export const workflowIdOf = (name: string): string => `crossfade/${name}`

export const workflowType = 'migration'
export const defaultTaskQueue = 'crossfade'

/** Where the workers of a task queue look for flags to write, and for nothing else. */
export const flagQueueOf = (taskQueue: string): string => `${taskQueue}-flags`
