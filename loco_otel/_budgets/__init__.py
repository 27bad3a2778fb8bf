"""Budgets, prices and the ledgers that store what calls cost.

Amounts are integers in micro-USD (millionths of a dollar). An account stores spent and reserved amounts apart: a call
reserves its estimate before it is sent, and its actual cost is settled when it ends.
"""
