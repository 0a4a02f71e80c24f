// Entries that a layer above hides, in the same words everywhere.

/** Whether an entry is hidden in its image. */
export const isHidden = (entry) => entry.state === "hidden";

/** By which layer it is hidden, and how. */
export const hiding = (entry) => `${entry.how === "replaced" ? "replaced" : "removed"} by layer ${entry.hidden_by}`;
