"""Verbs for the store's images, mounts and space.
Must not decide anything: rooms below do.
"""
