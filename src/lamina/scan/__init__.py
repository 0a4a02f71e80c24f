"""Files of this machine as a layer's entries. Never follows a link. Must not know images."""
