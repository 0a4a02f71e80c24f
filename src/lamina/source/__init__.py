"""What places of images can do (``protocols``), an image as a value (``Stack``), and how documents are selected,
walked and verified. Must not know a particular place, a disk or a network."""
