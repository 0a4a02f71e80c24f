"""A registry over any place that implements the protocols of ``lamina.source``: distribution-spec pull and push.
Must not know the store.
"""
