"""The logs of containers: each driver's files, written by the monitor and read by `lamina logs`.

``writer`` and what it imports is loaded by every monitor, so it must not import what takes long to load. A reader
needs no lock and asks no process: it sees what the files hold at that moment. Must not know how a container is run.
"""
