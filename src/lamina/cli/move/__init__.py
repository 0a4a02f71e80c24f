"""Verbs that move images between places.
Must not decide anything: rooms below do.
"""
