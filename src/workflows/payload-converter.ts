import { defaultPayloadConverter, type Payload, type PayloadConverter } from '@temporalio/common'

/** What stands for a payload that cannot be decoded: no handler takes text, so it is refused and recorded. */
const undecodable = 'a payload that cannot be decoded'

/**
 * As the default one, but a message that cannot be decoded reaches its handler, which refuses it. The default throws: then the
 * workflow task fails, is tried again, and fails for ever, because the message stays in the history. The UI's form is enough for
 * that: it offers the encoding `json/protobuf`, which the SDK does not know; its data is JSON all the same. Results of activities
 * stay strict: there is no handler that would check them.
 */
export const payloadConverter: PayloadConverter = {
  toPayload: (value, context, hint) => defaultPayloadConverter.toPayload(value, context, hint),
  fromPayload(payload, context, hint) {
    try {
      return defaultPayloadConverter.fromPayload(payload, context, hint)
    } catch (error) {
      if (context?.type === 'activity') throw error
      return fromJson(payload) as never
    }
  },
}

const { metadata: json = {} } = defaultPayloadConverter.toPayload({})

function fromJson({ data }: Payload): unknown {
  try {
    return defaultPayloadConverter.fromPayload({ metadata: json, data: data ?? null })
  } catch {
    return undecodable
  }
}
