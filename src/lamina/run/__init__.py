"""Containers: the OCI runtime spec from an image and options, a runtime that runs it, and the changes afterwards.
Must not know the command line.
"""
