/** What an error of `capture` names as its constraint when the other side is primary: the transaction is for that side. */
export const movedMark = 'crossfade_primary'
