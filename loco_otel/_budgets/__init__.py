"""What calls cost, and the budgets that they are paid from.

Money is integers: micro-USD (millionths of a dollar). A budget holds what is spent and what is reserved apart: a call
reserves its estimate before it is sent and settles what it really took at its end.
"""
