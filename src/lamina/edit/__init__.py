"""New images out of old ones: layers put on top, programs packed. Old images are never touched: an edit
is a new manifest, a new config, and the blobs that they add. Must not know its siblings or the command line.
"""
