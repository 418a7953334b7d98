import { fileURLToPath } from 'node:url'

/** Another module of this package as the program of a process: beside the sources as source, in a build as built. */
export const ownScript = (path: string): string =>
  fileURLToPath(new URL(`${path}.${import.meta.url.endsWith('.ts') ? 'ts' : 'js'}`, import.meta.url))
