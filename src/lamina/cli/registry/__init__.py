"""Verbs that ask a registry, log in, or serve one.
They parse, call the packages below, and print.
"""
