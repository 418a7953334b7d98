import { docsLink, toEnvelope, type ErrorEnvelope } from '../../errors/index.ts'

/** What `--json` prints: one object with `ok` first, the same envelope in every command. */
export function renderJson(data: object, { ok = true, indent = 2 } = {}): string {
  return JSON.stringify({ ok, ...data }, undefined, indent)
}

/** The envelope of an error: `{ok: false, error: {kind, code, message, mend, docs, details?}}`. */
export function renderJsonError(error: ErrorEnvelope, beside: object = {}): string {
  return renderJson({ error: { ...toEnvelope(error), docs: docsLink(error.code) }, ...beside }, { ok: false })
}
