"""What the flows need to run as commands: a server, a cluster, a clean stop."""
