"""Checkpoints of a compressed layer: where inflating can begin in the middle, and the file that keeps them.
Must not know the store.
"""
