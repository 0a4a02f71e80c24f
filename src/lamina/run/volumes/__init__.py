"""The volumes and mounts of containers: what a container asks for (``points``), what it gets when it starts
(``attach``, ``images``, ``chown``), and volumes as things of their own (``create``, ``remove``, ``listing``).

It must not know how a container lives (``run.container``), which is built on it."""
