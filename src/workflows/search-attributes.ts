import { defineSearchAttributeKey } from '@temporalio/common'

/** Registered before the first start (the worker and `dev` do it): an unknown one would stop a workflow from moving at all. */
export const crossfadePhase = defineSearchAttributeKey('CrossfadePhase', 'KEYWORD')
export const crossfadeWaitingFor = defineSearchAttributeKey('CrossfadeWaitingFor', 'KEYWORD')
export const crossfadeDatabase = defineSearchAttributeKey('CrossfadeDatabase', 'KEYWORD')

export const searchAttributeNames = ['CrossfadePhase', 'CrossfadeWaitingFor', 'CrossfadeDatabase'] as const
