"""A container in the form of docker's inspect: from its record, its image's config, and the files of its network and
its health check. The runtime spec is not read: a container that never ran shows all of it too."""
