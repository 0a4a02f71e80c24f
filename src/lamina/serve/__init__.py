"""A registry over any source (floor 8), first form: distribution-spec pull and push, on loopback, without users.

``routes``, ``ranges`` are pure; ``api`` answers requests from the source's protocols; ``uploads`` holds what is on
its way in; ``server`` speaks HTTP.
"""
