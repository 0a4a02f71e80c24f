"""Answers to questions about images: which there are, what each layer does, which layer a path comes from, what
differs. Returns values and prints nothing. Must not apply rules of the union again."""
