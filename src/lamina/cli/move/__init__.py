"""Verbs that move images between places.
They parse, call the packages below, and print.
"""
