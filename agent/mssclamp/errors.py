"""The one exception tree: every error that a person is meant to read."""

from __future__ import annotations


class ClampdError(Exception):
    """A failure to be told in one line: what is wrong, and what would be right.

    `fix` is what the reader can do about it, or None where the message says it all. `code` is a short
    stable word for programs (it is the API's error code).
    """

    code = "failed"

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}; {self.fix}" if self.fix else self.message


class ConfigError(ClampdError):
    """The configuration cannot be used."""

    code = "config"


class NoDaemonError(ClampdError):
    """Nobody answers on the control socket."""

    code = "no-daemon"


class RequestError(ClampdError):
    """A request that cannot be carried out as asked."""

    code = "bad-request"


class NotFoundError(RequestError):
    """What the request names does not exist."""

    code = "not-found"


class AmbiguousError(RequestError):
    """What the request names fits several things."""

    code = "ambiguous"


class ForbiddenError(RequestError):
    """The caller may read but not change."""

    code = "forbidden"


class ConflictError(RequestError):
    """The request does not fit the state things are in."""

    code = "conflict"


class DatapathError(ClampdError):
    """The kernel refused something."""

    code = "datapath"


class StoreError(ClampdError):
    """What must outlive a restart could not be read or written."""

    code = "store"
