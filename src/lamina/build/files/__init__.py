"""Contexts, and what COPY and ADD take from them: directories, tars, git repositories, addresses; the items of
layers. Must not write a layer or run a program of an image.
"""
