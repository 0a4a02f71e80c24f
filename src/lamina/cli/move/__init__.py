"""Verbs that move images between places.
They parse, call and print. They must not contain logic that users of the library need too.
"""
