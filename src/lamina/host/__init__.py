"""What this machine gives, the same for every room: files, locks, temporary files, the mount table, privileges, C
calls. Must not know what an image is.
"""
