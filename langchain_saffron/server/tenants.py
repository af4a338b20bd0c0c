"""Who asks: API keys, compared in constant time, and the tenants that they stand for."""

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from langchain_saffron.errors import SettingsError
from langchain_saffron.server.errors import ApiError


class KeyRing:
    """The keys that are let in. Only their digests are kept."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        """Take the keys.

        Args:
            keys: `"key"`, a tenant of its own, or `"tenant:key"`. With none of them everybody is let in, and whoever
                sends the same key is the same tenant.

        Raises:
            SettingsError: A key is empty.
        """
        self._tenants: list[tuple[bytes, str]] = []
        for given in keys:
            name, colon, key = given.strip().partition(":")
            key = key if colon else name
            if not key:
                raise SettingsError("api_key: an empty string is no key")
            self._tenants.append((_digest(key), f"tenant-{name}" if colon else _tenant(key)))

    def tenant(self, authorization: str | None) -> str:
        """Whom a request's `Authorization` header stands for; a name that does not tell the key.

        Raises:
            ApiError: 401, it stands for nobody.
        """
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip() if scheme.lower() == "bearer" else ""
        if not self._tenants:
            return _tenant(key) if key else "anonymous"
        given, found = _digest(key), None
        # all of them, so that the time does not tell which one was close
        for digest, tenant in self._tenants:
            if hmac.compare_digest(digest, given):
                found = tenant
        if found is None or not key:
            raise ApiError(
                401,
                "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'",
                "invalid_api_key",
                kind="authentication_error",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return found


def keys_in(file: Path) -> list[str]:
    """The keys of a file, one a line; empty lines and comments are none.

    Raises:
        SettingsError: There are none in it, and everybody would be let in, or it cannot be read.
    """
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"api_key_file: {file} cannot be read: {error}") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise SettingsError(f"api_key_file: there is no key in {file}")
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _tenant(key: str) -> str:
    # of another message than what keys are compared by
    return "key-" + hashlib.sha256(b"tenant" + _digest(key)).hexdigest()[:16]
