"""A registry server over any place that implements the protocols of ``lamina.source``: pull and push of the
distribution-spec. Must not know the store."""
