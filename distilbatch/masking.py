"""Takes out of messages what nobody should read in a log: passwords in URLs, keys in their queries, tokens of the hub.

Messages of libraries repeat the URL that they asked for, and HF_ENDPOINT or a proxy's may hold a password.
"""

from __future__ import annotations

import logging
import re

from typing_extensions import override

MASK = "***"

_SECRETS = (
    # Between '://' and the last '@' before the path; the user too, which may be the token.
    (re.compile(r"(?<=://)[^\s/?#\"'<>]*@"), f"{MASK}@"),
    (
        re.compile(
            r"([?&;][\w.-]*(?:token|secret|password|passwd|signature|credential|auth|key|\bsig)[\w.-]*=)[^\s&;#\"'<>]+",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"\b((?:Bearer|Basic)\s+)[\w.~+/-]+=*", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"\bhf_[A-Za-z0-9]{8,}"), f"hf_{MASK}"),
)


def mask(text: str) -> str:
    """Return a message without credentials."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


class MaskingFormatter(logging.Formatter):
    """Writes what another formatter does, tracebacks included, without credentials.

    Args:
        inner: The other formatter.
    """

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    @override
    def format(self, record: logging.LogRecord) -> str:
        text = mask(self._inner.format(record))
        # Where it cannot be written, logging itself prints the record's parts to standard error.
        record.msg, record.args = mask(record.getMessage()), ()
        return text


def mask_logs_of(name: str) -> None:
    """Have a library's own log handlers write no credentials; those of its users are theirs."""
    for handler in logging.getLogger(name).handlers:
        if not isinstance(handler.formatter, MaskingFormatter):
            handler.setFormatter(MaskingFormatter(handler.formatter or logging.Formatter()))
