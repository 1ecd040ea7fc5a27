"""Answers to requests that take no longer than they may, however slowly they come."""

from __future__ import annotations

import io
import time
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

from galpipe.archives.download import LARGEST_ANSWER, SLOWEST

PIECE = 65536  # bytes read at once, at most


class Timed(HTTPAdapter):
    """Reads each answer whole within a time, and gives up one that drips.

    `patience`: seconds after the first byte from when at least `SLOWEST` bytes a second must have
    come; `longest`: seconds for all of it.  Raises requests.ReadTimeout, and what requests raises
    of answers that break off.
    """

    def __init__(self, patience: float, longest: float) -> None:
        super().__init__()
        self._patience, self._longest = patience, longest

    def send(self, request: Any, *arguments: Any, **settings: Any) -> requests.Response:
        answer = super().send(request, *arguments, **{**settings, "stream": True})
        try:
            content = self._read(answer.raw)
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(error, request=request) from None
        finally:
            answer.raw.close()
        answer.raw = io.BytesIO(content)
        return answer

    def _read(self, raw: Any) -> bytes:
        begin, content = time.monotonic(), bytearray()
        while piece := raw.read1(PIECE, decode_content=True):
            content += piece
            taken = time.monotonic() - begin
            slow = taken > self._patience and len(content) < SLOWEST * taken
            if slow or taken > self._longest:
                raise requests.ReadTimeout("the answer comes too slowly")
            if len(content) > LARGEST_ANSWER:
                raise requests.ReadTimeout("the answer is larger than any table")
        return bytes(content)
