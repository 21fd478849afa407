"""The command line: `meshnode up`, `status` and the others, each a short conversation with the daemon."""

from meshnode.cli.main import main

__all__ = ["main"]
