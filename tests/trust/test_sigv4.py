"""Signature Version 4, held to vectors that AWS has published."""

from datetime import UTC, datetime

import pytest

from falaj.trust.adapters.sigv4 import Credentials, signed_headers, signing_key

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
AT = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
HOST = {"host": "example.amazonaws.com"}
FORM = {**HOST, "content-type": "application/x-www-form-urlencoded"}
TOKEN = (
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSP"
    "fIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7"
    "WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8"
    "FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
)
VECTORS = {
    "get-vanilla": (
        "GET", HOST, b"", "", "host;x-amz-date",
        "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
    ),
    "post-vanilla": (
        "POST", HOST, b"", "", "host;x-amz-date",
        "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
    ),
    "post-x-www-form-urlencoded": (
        "POST", FORM, b"Param1=value1", "", "content-type;host;x-amz-date",
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ),
    "post-sts-header-before": (
        "POST", HOST, b"", TOKEN, "host;x-amz-date;x-amz-security-token",
        "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_of_the_published_suite_is_signed_as_it_says(name):
    method, headers, body, token, signed, signature = VECTORS[name]
    found = signed_headers(
        headers,
        body,
        Credentials("AKIDEXAMPLE", SECRET, token),
        region="us-east-1",
        service="service",
        at=AT,
        method=method,
    )
    assert found["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders={signed}, Signature={signature}"
    )
    assert found["x-amz-date"] == "20150830T123600Z"


def test_the_key_of_a_day_is_the_one_of_the_user_guide():
    key = signing_key(SECRET, "20120215", "us-east-1", "iam")
    assert key.hex() == "f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d"


def test_secrets_are_in_no_representation():
    shown = repr(Credentials("AKIDEXAMPLE", SECRET, TOKEN))
    assert SECRET not in shown
    assert TOKEN not in shown
