export {
  defineMigration,
  resolveMigration,
  fingerprint,
  definitionJsonSchema,
  type DefinitionInput,
  type Migration,
} from './definition/index.ts'
export { CrossfadeError, isCrossfadeError, type ErrorEnvelope, type ErrorKind } from './errors/index.ts'
