"""Output of all verbs: tables, JSON, Go templates, progress, text made safe for a terminal. Must not know what a verb
does."""
