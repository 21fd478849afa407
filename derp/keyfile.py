"""The file with a relay's private key: JSON with the member `PrivateKey`, as Tailscale's relay keeps it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from derp.files import write_atomically
from meshproto.keys import MalformedKey, NodePrivate


class BadKeyFile(Exception):
    """The file cannot be read or made; `str()` says why."""


def load_or_create(path: Path) -> NodePrivate:
    """The key in the file, or a new one that is there from now on. Raises BadKeyFile."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return _create(path)
    except OSError as error:
        raise BadKeyFile(f"cannot read the key file {path}: {error.strerror}") from error
    try:
        return NodePrivate.parse(json.loads(text)["PrivateKey"])
    except (ValueError, KeyError, TypeError, AttributeError, MalformedKey) as error:
        raise BadKeyFile(
            f"{path} is not a key file of a relay; move it away to have a new one made"
        ) from error


def _create(path: Path) -> NodePrivate:
    key = NodePrivate.generate(os.urandom)
    try:
        write_atomically(path, (json.dumps({"PrivateKey": key.to_text()}) + "\n").encode())
    except OSError as error:
        raise BadKeyFile(f"cannot make the key file {path}: {error.strerror}") from error
    return key
