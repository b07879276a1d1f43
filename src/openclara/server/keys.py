"""API keys: made once, kept as hashes, compared in constant time.

A key is 256 random bits, so guessing it is out of reach whatever the hash costs: one SHA-256 is
kept, without the salt and the slowness that passwords need.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, get_args

from filelock import FileLock

from openclara.errors import ConfigError, FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Scope = Literal["read", "write"]
"""`read` asks and looks; `write` also changes indexes."""

PREFIX = "oc_"
FORMAT, VERSION = "openclara-keys", 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key.

    Attributes:
        name: Whose it is; the log names it.
        scope: What it may.
        sha256: Of the key, in hexadecimal.
        created: ISO 8601 in UTC.
    """

    name: str
    scope: Scope
    sha256: str
    created: str

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """Everything it may."""
        return ("read", "write") if self.scope == "write" else ("read",)


class KeyFile:
    """The keys of a service; a change of the file counts from the next request on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int] | None = None
        self._keys: tuple[Key, ...] = ()

    def keys(self) -> tuple[Key, ...]:
        """All keys; none where there is no file.

        Raises:
            FormatError: The file is damaged.
        """
        try:
            about = self.path.stat()
        except FileNotFoundError:
            self._seen, self._keys = None, ()
            return ()
        seen = (about.st_mtime_ns, about.st_ino)
        if seen != self._seen:
            self._keys, self._seen = _parsed(self.path), seen
        return self._keys

    def find(self, presented: str) -> Key | None:
        """The key that was presented, if it is one of ours."""
        digest = _sha256(presented)
        found = None
        for key in self.keys():
            # No early end: the time must not tell which of them is like the one presented.
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def add(self, name: str, scope: Scope) -> str:
        """Make a key.

        Returns:
            The key itself, which is kept nowhere.

        Raises:
            ConfigError: The name is taken or odd.
            FormatError: The file is damaged.
        """
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"the key's name {name[:80]!r} is no name; use up to 64 letters, digits and ._@-"
            )
        with self._changing():
            keys = self.keys()
            if any(key.name == name for key in keys):
                raise ConfigError(
                    f"there is a key named {name} already; remove it first, or choose another name"
                )
            secret = PREFIX + secrets.token_urlsafe(32)
            created = datetime.now(UTC).isoformat(timespec="seconds")
            self._write((*keys, Key(name, scope, _sha256(secret), created)))
        return secret

    def remove(self, name: str) -> None:
        """Make a key worthless.

        Raises:
            ConfigError: There is none of that name.
            FormatError: The file is damaged.
        """
        with self._changing():
            keys = self.keys()
            left = tuple(key for key in keys if key.name != name)
            if len(left) == len(keys):
                known = ", ".join(key.name for key in keys) or "none"
                raise ConfigError(f"there is no key named {name}; there are: {known}")
            self._write(left)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock", mode=0o600):
            yield

    def _write(self, keys: tuple[Key, ...]) -> None:
        content = {"format": FORMAT, "version": VERSION, "keys": [asdict(key) for key in keys]}
        temporary = self.path.with_name(self.path.name + ".tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)
        self._seen = None


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def _parsed(path: Path) -> tuple[Key, ...]:
    damaged = f"{path} is not a file of API keys; make one with `openclara keys add`"
    try:
        content = json.loads(path.read_bytes())
        keys = tuple(Key(**key) for key in content["keys"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise FormatError(damaged) from None
    strings = all(isinstance(value, str) for key in keys for value in asdict(key).values())
    if content.get("format") != FORMAT or content.get("version") != VERSION or not strings:
        raise FormatError(damaged)
    if any(key.scope not in get_args(Scope) or len(key.sha256) != 64 for key in keys):
        raise FormatError(damaged)
    return keys
