"""Files of this machine as a layer's entries (floor 6). Never follows a link. Must not know images."""
