"""Verbs that ask a registry, log in, or serve one.
Must not decide anything: rooms below do.
"""
