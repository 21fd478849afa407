"""Asking a coordinator whether a client may use the relay (nat-traversal reference §1.8)."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from derp.session import Admission

TIMEOUT_S = 5.0
MAX_ANSWER_SIZE = 4096

logger = logging.getLogger(__name__)


class UrlVerifier:
    """Asks a URL, such as a coordinator's `/verify`, about each client.

    `fail_open`: whether clients are let in when nobody answers there. A relay that keeps working while its
    coordinator is down is what most people want; whoever does not, says so.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession, *, fail_open: bool = True) -> None:
        self._url = url
        self._session = session
        self._fail_open = fail_open

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, fail_open: bool = True) -> AsyncIterator[UrlVerifier]:
        """A verifier whose connections are kept for the next question."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            yield cls(url, session, fail_open=fail_open)

    async def __call__(self, admission: Admission) -> bool:
        question = {"NodePublic": str(admission.key), "Source": admission.host}
        try:
            async with self._session.post(self._url, json=question) as response:
                body = await response.content.read(MAX_ANSWER_SIZE)
                return response.status == 200 and _allows(body)
        except (aiohttp.ClientError, TimeoutError) as error:
            outcome = "letting the client in" if self._fail_open else "refusing the client"
            logger.warning("%s does not answer (%s); %s", self._url, _reason(error), outcome)
            return self._fail_open


def _allows(body: bytes) -> bool:
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    return isinstance(answer, dict) and answer.get("Allow") is True


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
