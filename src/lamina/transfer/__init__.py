"""Images on their way from one place to another: one engine under load, save, copy, and later pull and
push; and an image at any place opened without storing it. Knows protocols, not places.
"""
