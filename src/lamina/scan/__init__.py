"""Files of the host as entries of a layer. Symlinks are never followed. Must not know images."""
