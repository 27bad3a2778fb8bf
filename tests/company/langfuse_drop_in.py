"""Langfuse's drop-in for openai in the form of an instrumentor."""

import importlib


class DropIn:
    """Wraps openai's methods by an import, as `from langfuse.openai import openai` does; there is no way back."""

    def instrument(self, *, skip_dep_check: bool) -> None:
        assert skip_dep_check
        importlib.import_module("langfuse.openai")
