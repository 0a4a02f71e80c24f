"""Files of this machine as entries of a layer. No link is followed. Must not know images."""
