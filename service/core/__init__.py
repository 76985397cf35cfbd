"""The deciding part, sans-I/O: which request runs on which variant, in which batch, and when.

Nothing here reads a clock (but `clock.py`), opens a socket, starts a thread or knows HTTP or gRPC.
"""
