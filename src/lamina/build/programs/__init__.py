"""RUN: a step in a sandbox, its mounts, and what it changed. Must not decide keys or write layers."""
