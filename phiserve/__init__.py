"""What a client of phiserve imports, and the `phiserve` command."""

__version__ = "0.1.0"
