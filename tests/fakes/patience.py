"""Limits for what must run out of time: short, and longer in each further try.

A busy machine may have let a short time pass before what it is to end had even begun; that proves nothing, and with
more time it does begin. Nobody waits longer than the first one on a machine that has time.
"""

RISING_S = (0.2, 0.8, 3.2, 12.8)
