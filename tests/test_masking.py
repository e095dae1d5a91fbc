"""Credentials in what libraries say are not passed on; everything else is."""

from __future__ import annotations

import io
import logging

import pytest

from distilbatch.masking import MaskingFormatter, mask, mask_logs_of


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("at https://user:s3cret@hub.example/a/b.", "at https://***@hub.example/a/b."),
        ("'http://s3cret@h:80' and ray://:s3cret@h", "'http://***@h:80' and ray://***@h"),
        ("https://user:s3@cret@h/x@y", "https://***@h/x@y"),
        ("https://h/a?b=1&X-Amz-Signature=s3cret&c=2", "https://h/a?b=1&X-Amz-Signature=***&c=2"),
        ("https://h/a?token=s3cret 'https://h/?sig=s3cret'", "https://h/a?token=*** 'https://h/?sig=***'"),
        ("Illegal header value b'Bearer s3cret=='", "Illegal header value b'Bearer ***'"),
        ("hf_s3crets3cret", "hf_***"),
    ],
)
def test_credentials_are_masked(text, masked):
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "https://h/org/name@main and me@example.org",
        "https://h/a?b=1&c=2#key=3",
        "column hf_token; key=3; set HF_TOKEN",
        "s3://b/x, ./a:b@c/d",
    ],
)
def test_other_text_is_left_alone(text):
    assert mask(text) == text


def test_a_library_with_handlers_of_its_own_writes_no_credentials(capsys):
    logger, stream = logging.getLogger("library_of_this_test"), io.StringIO()
    logger.addHandler(logging.StreamHandler(stream))
    for _ in range(2):
        mask_logs_of(logger.name)
    try:
        raise OSError("https://user:s3cret@h/x")
    except OSError:
        logger.exception("at %s", "https://user:s3cret@h")
    assert stream.getvalue().startswith("at https://***@h\nTraceback")
    assert "s3cret" not in stream.getvalue()
    (handler,) = logger.handlers
    stream.close()
    logger.warning("at %s", "https://user:s3cret@h")
    assert "Message: 'at https://***@h'" in (told := capsys.readouterr().err)
    assert "://user" not in told.replace('"https://user:s3cret@h")', "")  # the statement of this test
    assert isinstance(handler.formatter, MaskingFormatter)
    assert not isinstance(handler.formatter._inner, MaskingFormatter)
