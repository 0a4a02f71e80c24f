"""The union as a FUSE mount, straight from the tree, for users without mount rights.
Must not need a store.
"""
