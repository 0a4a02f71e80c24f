"""What people ask of images: which images are there, what each layer does, who put a path there.

Reads a ``Stack`` or the store, computes values, and prints nothing. Must not know the command line, nor its
siblings (transfer, view, edit), and must not decide again what the union has decided.
"""
