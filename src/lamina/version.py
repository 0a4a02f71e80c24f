__version__ = "0.1.0.dev0"
PODMAN = "5.8.2"
"""The version of podman whose command line lamina speaks where docker's has no such verb (docs/compose.md)."""
