"""Virtual machines whose disks are the layers of an image: kernel, initramfs, disks, and the program that runs them.

It knows containers (``run``) as far as a machine is one: a record, a monitor, options. It must not know the command
line.
"""
