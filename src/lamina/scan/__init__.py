"""Files of this machine as entries of a layer. Symlinks are never followed. Must not know images."""
