"""Keeps passwords out of output and records."""

import re
from urllib.parse import unquote

_PASSWORD = re.compile(r"(?<=://)([^:/]*):(.*)(?=@)", re.DOTALL)  # to the last @: a password may contain one
_SECRET_FIELD = re.compile(r"(?i)([?&][^=&]*(?:pass|pwd|secret|token)[^=&]*=)([^&]*)")


def hide_secrets(url: str) -> str:
    """Return the URL without its passwords.

    >>> hide_secrets("postgresql://ann:p@ss@host/studies?sslpassword=x")
    'postgresql://ann:***@host/studies?sslpassword=***'
    """
    return _SECRET_FIELD.sub(r"\1***", _PASSWORD.sub(r"\1:***", url))


def hide_in(text: str, url: str) -> str:
    """Return the text without the URL's passwords, which a library may have put there."""
    secrets = [found.group(2) for pattern in (_PASSWORD, _SECRET_FIELD) for found in pattern.finditer(url)]
    for secret in sorted({part for s in secrets for part in (s, unquote(s)) if part}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
