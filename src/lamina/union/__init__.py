"""The union of layers: ``merge`` applies them by the image-spec's rules, ``Tree`` is the result, ``trail``
says what happened to a path on the way. Pure: indexes in, values out; no disk, no names of images, no registry.
"""
