"""Verbs that look into images: nothing changes.
They parse, call the packages below, and print.
"""
