"""One target under atheris: `python -m tests.fuzz.one NAME [libFuzzer's options and files]`.

A directory among the arguments is the corpus, and seeds are put into it. With a file instead, that input is
run once: how a crash is repeated.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["meshproto", "stun", "derp", "meshnode", "coordinator"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Does not return: libFuzzer ends the process."""
    _, name, *arguments = sys.argv
    target = TARGETS[name]
    corpus = next((Path(word) for word in arguments if Path(word).is_dir()), None)
    if corpus is not None:
        for seed in target.seeds():
            (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    atheris.Setup([name, *arguments], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
