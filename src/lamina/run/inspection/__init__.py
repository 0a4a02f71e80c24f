"""What is known of containers: the list of `ps`, and docker's inspect. It comes from records, from the configs of
images, and from the files of networks and health checks. The runtime spec is not read: a container that never ran
shows all of it too. Must not start, stop or change a container."""
