"""Engines that host the core: in this process, and later in a server that several processes share."""
