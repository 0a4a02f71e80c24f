"""The union as a real directory through the kernel's overlay: the directories below, the mount, the record of it.
Must not merge layers itself.
"""
