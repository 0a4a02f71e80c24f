"""The union as a real directory through the kernel's overlay: its lower directories, the mount, the record of it.
Must not merge layers itself."""
