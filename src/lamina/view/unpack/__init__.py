"""The union written into a directory by several processes, and checks of such directories. Must not follow symlinks
of an image."""
