"""Containers: the OCI runtime spec from an image and what the caller asks, a runtime that runs it, and what can be
done with the changes afterwards. Must not know the command line.
"""
