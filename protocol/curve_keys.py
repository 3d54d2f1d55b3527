"""CURVE keys on disk: the text form that zmq.auth's certificates have.

Owns the form and its checks. Knows no socket: whether two keys belong together only libzmq can say.
Worked example: `metadata`, then lines like `    address = "10.0.0.1:2380"`, then `curve`, then `    public-key = "…"`
and, in a `.key_secret` file only, `    secret-key = "…"`, each 40 characters of Z85.
"""

from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from protocol.errors import ConfigError

KEY_CHARS: Final = 40
KEY_FILE_BYTES_MAX: Final = 4096
_Z85: Final = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


class KeyFile(NamedTuple):
    """What a key file says."""

    public: bytes
    secret: bytes = b""
    """Empty in a public file."""
    address: str = ""
    """Of a member: where its peers dial it, as `host:port`."""


def is_key(text: bytes) -> bool:
    """Whether this is a CURVE key, public or secret: 32 bytes in Z85."""
    with suppress(ValueError):
        digits = [_Z85.index(character) for character in text.decode("ascii")]
        groups = [digits[at : at + 5] for at in range(0, len(digits), 5)]
        return len(digits) == KEY_CHARS and all(_number(group) < 1 << 32 for group in groups)
    return False


def _number(digits: list[int]) -> int:
    number = 0
    for digit in digits:
        number = number * 85 + digit
    return number


def key_file_text(keys: KeyFile, *, secret: bool) -> bytes:
    """Return what a key file says: `<name>.key` without the secret, `<name>.key_secret` with it."""
    warning = (
        "# The secret key of one node or client: keep it there.\n" if secret else "# A public key: give it away.\n"
    )
    lines = [warning, "metadata\n", f'    address = "{keys.address}"\n' if keys.address else "", "curve\n"]
    lines += [f'    public-key = "{keys.public.decode()}"\n']
    lines += [f'    secret-key = "{keys.secret.decode()}"\n'] if secret else []
    return "".join(lines).encode()


def read_key_file(path: Path) -> KeyFile:
    """Return what stands in a key file.

    Raises:
        ConfigError: it cannot be read, or has no key; the text names it.
    """
    try:
        with path.open("rb") as file:
            text = file.read(KEY_FILE_BYTES_MAX).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or 'not a key file'}") from error
    values: dict[str, str] = {}
    for line in text.splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.lstrip().startswith("#"):
            values[name.strip()] = value.strip().strip("\"'")
    public, secret = (values.get(name, "").encode() for name in ("public-key", "secret-key"))
    if not is_key(public) or (secret and not is_key(secret)):
        raise ConfigError(f"{path}: there is no CURVE key in it; python -m tools.keygen curve makes one")
    return KeyFile(public, secret, values.get("address", ""))
