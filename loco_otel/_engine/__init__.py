"""Where the core lives: in this process, and later in a server that several processes share."""
