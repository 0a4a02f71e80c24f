"""What the host offers to every package: files, locks, temporary files, the mount table, privileges, C calls.
Must not know what an image is."""
