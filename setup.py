"""The one part of the build that pyproject.toml cannot say: the Rust kernel is optional.

Where `native/Cargo.toml` and cargo are both there, `meshnode._native` is compiled; where either is missing,
or compiling fails, the installation goes on and the program runs on its Python data plane.
"""

import shutil
from pathlib import Path

from setuptools import setup

MANIFEST = Path("native/Cargo.toml")


def rust_extensions() -> list[object]:
    """The extension modules to compile on this machine."""
    if not (MANIFEST.is_file() and shutil.which("cargo")):
        return []
    from setuptools_rust import Binding, RustExtension

    return [
        RustExtension(
            "meshnode._native",
            path=str(MANIFEST),
            binding=Binding.PyO3,
            args=["--locked"],
            debug=False,
            optional=True,
        )
    ]


setup(rust_extensions=rust_extensions())
