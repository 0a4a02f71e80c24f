"""The union written into a directory, by several processes, and such directories checked.
Must not follow a link of an image.
"""
