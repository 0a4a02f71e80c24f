"""New images out of old ones: layers added, removed or replaced, config changed, programs packed. The old image
stays as it was. Must not know its siblings (transfer, view, insight) or the command line.
"""
