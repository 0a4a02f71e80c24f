"""The union as a FUSE mount, straight from the tree, for users without permission to mount. Must not need a store."""
