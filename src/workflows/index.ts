export { migration } from './migration.ts'
