"""Verbs that look into images: nothing changes.
They parse, call and print. They must not contain logic that users of the library need too.
"""
