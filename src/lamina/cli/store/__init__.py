"""Verbs for the store's images, mounts and space.
They parse, call and print. They must not contain logic that users of the library need too.
"""
