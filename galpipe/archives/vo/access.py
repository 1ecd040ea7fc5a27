"""Who may be asked, and with what right: hosts, and a token that nothing ever writes down."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit, urlunsplit

from galpipe.archives.connections import is_local
from galpipe.archives.download import Downloader
from galpipe.archives.pace import pace_at
from galpipe.archives.spec import Vo
from galpipe.archives.trouble import BadImageError
from galpipe.errors import InputError
from galpipe.status import Status

T = TypeVar("T")
HIDDEN = "***"
DECIDED = (Status.NO_COVERAGE, Status.OFF_FRAME)


def token_of(spec: Vo) -> str | None:
    """The token of the archive, from the environment; None where it needs none.

    Raises InputError where it is not set, is no header's text, or would travel unencrypted.
    """
    if not spec.token_env:
        return None
    token = os.environ.get(spec.token_env, "").strip()
    if not token:
        raise InputError(
            f"archive.token_env: the environment variable {spec.token_env} is not set; set it to "
            "the token of the archive."
        )
    if not (token.isascii() and token.isprintable()):
        raise InputError(
            f"archive.token_env: the environment variable {spec.token_env} holds no plain text; "
            "set it to the token alone."
        )
    for key in ("tap", "sia", "soda", "hips2fits"):
        address = getattr(spec, key)
        used = key != "hips2fits" or spec.pixels.kind == "hips"
        if used and address.startswith("http:") and not is_local(address):
            raise InputError(
                f"archive.{key}: a token would travel unencrypted to {address}; use https."
            )
    return token


class Access:
    """Asks one archive; a context that keeps connections open; used by many threads."""

    def __init__(self, spec: Vo) -> None:
        self.spec = spec
        self._token = token_of(spec)
        named = (spec.tap, spec.sia, spec.soda, spec.hips2fits)
        self._own = {urlsplit(address).hostname for address in named if address}
        self._open = ExitStack()
        self._downloaders: dict[str, Downloader] = {}

    def __enter__(self) -> Access:
        main = self.spec.sia or self.spec.hips2fits
        for host in sorted({*filter(None, self._own), *self.spec.hosts}):
            # The main address keeps the pace; a host of images is asked as often as it is named.
            local = f"http://{host}" if is_local(f"http://{host}") else f"https://{host}"
            pace = pace_at(local, self.spec.requests_per_minute)
            address = main if urlsplit(main).hostname == host else local
            self._downloaders[host] = self._open.enter_context(Downloader(self.spec, address, pace))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def fetch(
        self,
        address: str,
        check: Callable[[bytes], T],
        parameters: dict[str, str],
        markup: bool = False,
    ) -> T:
        """What `check` makes of an answer; `parameters` come after those of the address itself.

        What an answer itself decides (NO_COVERAGE, OFF_FRAME) is not asked again.

        Raises BadImageError, as the downloader does, and FAILED for a host that is not allowed.
        """
        parts = urlsplit(address)
        host = parts.hostname or ""
        if parts.scheme not in ("http", "https") or host not in self._downloaders:
            raise BadImageError(
                Status.FAILED,
                f"the archive points to {self.hidden(host)[:100] or 'no host'}, which is not "
                "among archive.hosts",
            )
        if parts.scheme == "http" and not is_local(address) and self._token is not None:
            raise BadImageError(Status.FAILED, "the archive points to an unencrypted address")
        query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *parameters.items()])
        if self._token is not None and self._token in unquote_plus(address):
            raise BadImageError(Status.FAILED, "the archive puts the token into an address")
        asked: dict[str, Any] = {}
        if self._token is not None and host in self._own:
            asked["headers"] = {"Authorization": f"Bearer {self._token}"}
        whole = urlunsplit((parts.scheme, parts.netloc.rsplit("@", 1)[-1], parts.path, query, ""))

        def decided(content: bytes) -> T | BadImageError:
            try:
                return check(content)
            except BadImageError as error:
                if error.status in DECIDED:
                    return error
                raise

        found = self._downloaders[host].fetch(whole, decided, markup=markup, **asked)
        if isinstance(found, BadImageError):
            raise found
        return found

    def hidden(self, text: str) -> str:
        """A text from outside without the token, should the archive have put it there."""
        return text if self._token is None else text.replace(self._token, HIDDEN)
