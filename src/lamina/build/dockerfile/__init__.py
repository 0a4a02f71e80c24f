"""The language of Dockerfiles (pure): text to instructions, words and their variables, what `--call outline` tells.
Must not know steps, images or files.
"""
