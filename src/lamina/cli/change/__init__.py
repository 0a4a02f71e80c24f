"""Verbs that make images out of images and files.
They parse, call the packages below, and print.
"""
