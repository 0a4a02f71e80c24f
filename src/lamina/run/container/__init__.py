"""A container of the store, on top of a sandbox: its record, life and end, exec, volumes, files, commit and lists.
Must not know how a runtime works.
"""
