"""New images made from old ones: layers added, removed or replaced, config changed, programs packed. The old image is
not changed. Must not know its siblings (transfer, view, insight) or the command line."""
