"""The OCI documents and names as typed values: digest, reference, platform, descriptor, manifest, index, image
config. Pure. Must not know a disk or a network.
"""
