"""Blocks the caller until its ticket is decided: one module for threads, one for asyncio, over any engine."""
