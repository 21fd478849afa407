"""Every test here that asks for `kernel` runs once per implementation."""

from __future__ import annotations

import pytest

from tests.meshnode.dataplane.kernels import KERNELS, Kernel


@pytest.fixture(scope="session", params=KERNELS, ids=lambda kernel: kernel.name)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """The implementation under test."""
    return request.param  # type: ignore[no-any-return]
