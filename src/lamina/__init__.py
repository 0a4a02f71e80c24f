"""lamina: container images as a stack of immutable layers seen as one filesystem."""
