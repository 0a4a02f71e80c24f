"""Verbs that make images out of images and files.
Must not decide anything: rooms below do.
"""
