"""Readers of the running agent, one module per agent framework. Entry points name the import that loads each."""
