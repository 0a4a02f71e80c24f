"""Verbs for containers, and the short way of `run` without click.
Must not decide anything: rooms below do.
"""
