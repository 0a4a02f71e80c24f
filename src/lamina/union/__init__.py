"""The union of layers: ``merge`` applies the rules of the image-spec, ``Tree`` is the result. Pure: it takes indexes
and returns values. Must not know a disk, a network, or how the result is shown."""
