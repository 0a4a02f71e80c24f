"""Verbs that make images out of images and files.
They parse, call and print. They must not contain logic that users of the library need too.
"""
