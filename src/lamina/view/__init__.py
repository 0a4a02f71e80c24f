"""The union as files: mounted, unpacked, or through fsspec and pathlib-like paths. Everything here reads the merged
tree. Must not decide what the union is, and must not know the command line."""
