"""What is known of containers: the list of `ps`, and docker's inspect. It comes from the records, the images' configs,
and the files of networks and health checks. The runtime spec is not read: a container that never ran shows all of it
too."""
