"""Containers for a program that uses lamina as a library: a helper process, its jobs, their messages.
Must not change the calling process.
"""
