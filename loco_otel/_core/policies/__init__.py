"""Policies: each orders the agents that have a waiter."""
