"""What a place of images can do (protocols), an image as a value (``Stack``), and the one walk over its documents.
Must not know any place: no disk, no network.
"""
