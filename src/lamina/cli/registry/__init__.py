"""Verbs that ask a registry, log in, or serve one.
They parse, call and print. They must not contain logic that users of the library need too.
"""
