"""All targets by name."""

from __future__ import annotations

from typing import Final

from tests.fuzz import datagrams, documents, kernels, nodes, streams
from tests.fuzz.target import Target

TARGETS: Final[dict[str, Target]] = {
    target.name: target
    for module in (kernels, datagrams, documents, streams, nodes)
    for target in module.TARGETS
}
