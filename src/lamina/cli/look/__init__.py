"""Verbs that look into images: nothing changes.
Must not decide anything: rooms below do.
"""
