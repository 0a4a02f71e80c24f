"""Verbs for containers, and the short way of `run` without click.
They parse, call the packages below, and print.
"""
