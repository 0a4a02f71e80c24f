"""The union of layers: ``merge`` applies the rules of the image-spec, ``Tree`` is the result. Pure: indexes in,
values out. Must not know a disk, a network, or how the result is shown.
"""
