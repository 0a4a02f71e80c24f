"""Verbs for the store's images, mounts and space.
They parse, call the packages below, and print.
"""
