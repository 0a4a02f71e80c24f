"""Files of an ext4 file system in a disk image, read without the kernel of this host: a disk may be hostile, and a
plain user may not mount one. Nothing is written. Format: Documentation/filesystems/ext4 of the kernel.

It must not know machines or overlays.
"""
