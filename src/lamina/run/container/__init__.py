"""A container of the store and what is done with it: life and end, files in and out, commit, export, lists.
Must not know how a runtime works.
"""
