"""Adapters of loco-agent's API: they run an agent's tasks through a scheduler of the program."""
