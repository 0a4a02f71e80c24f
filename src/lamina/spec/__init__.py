"""The words of OCI: digest, reference, platform, media types, descriptor, manifest, index, image config.

Pure: everything here is a function of bytes or text that were given. It must not know of disks, networks,
registries or stores, nor of what is inside a layer. ``json.py`` is the only reader of JSON from outside; the
other modules are typed views over what it returned, and keep the raw bytes: a digest is of bytes, never of an
object that was written again.
"""
