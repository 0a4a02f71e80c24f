"""The steps of a plan to layers, from the cache or by the work of `files` and `programs`; the images of them.
Must not know the language of Dockerfiles.
"""
