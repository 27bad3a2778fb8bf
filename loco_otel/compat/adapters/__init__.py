"""Adapters of the seed's API: other people's calls, through a scheduler that the program made itself."""
