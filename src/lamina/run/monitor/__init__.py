"""The monitor of a container: one small process that stays with it when the command that started it has ended
(decision 0034). A command starts it (``spawn``) and talks to it (``client``); the rest runs in the monitor, which
must stay small. Must not import what takes long to load: no dataclasses, ``typing``, ``re`` or ``ctypes``, and the
engine only at the end.
"""
