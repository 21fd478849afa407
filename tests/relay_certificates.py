"""The certificate of the relays in tests, made once; conftest.py hands it to all of them."""

from __future__ import annotations

import pytest

from tests.derp.relays import Certificate


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.make(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(params=["clear", "tls"])
def tls(request: pytest.FixtureRequest, certificate: Certificate) -> Certificate | None:
    return certificate if request.param == "tls" else None
