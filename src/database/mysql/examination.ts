import type { Examination } from '../examination.ts'
import * as catalog from './catalog.ts'
import * as errors from './errors.ts'

export const examination: Examination = { errors, catalog }
