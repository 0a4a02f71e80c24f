"""Output of all verbs: tables, JSON, Go templates, progress, text made safe for a terminal. It does not import
verbs."""
