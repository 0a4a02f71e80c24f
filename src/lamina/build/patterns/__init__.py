"""Which files are meant (pure): ignore files, globs, symbolic modes, trees of entries. Must not read a file."""
