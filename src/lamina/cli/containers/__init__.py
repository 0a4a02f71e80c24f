"""Verbs for containers, and the short way of `run` without click.
They parse, call and print. They must not contain logic that users of the library need too.
"""
