"""A registry over any source, first form: distribution-spec pull and push, on loopback, without users.

``message``, ``routes`` and ``ranges`` are pure; ``api``, ``read`` and ``write`` answer from the source's protocols;
``uploads`` holds what is on its way in; ``server`` speaks HTTP.
"""
