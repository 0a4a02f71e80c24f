"""What a build does (pure): instructions to steps, the config and the history, the key of each step, the checks.
Must not read a file or run a program.
"""
