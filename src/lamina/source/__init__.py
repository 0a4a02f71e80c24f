"""What a place of images can do (``protocols``), an image as a value (``Stack``), and how its documents are found,
walked and verified. Must not know any place: no disk, no network.
"""
