"""The verb `build`: its options, its progress, what it prints.
It must not contain logic that users of the library need too: that is in ``lamina.build``.
"""
