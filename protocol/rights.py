"""What the actors of one node say to each other about rights, tokens and passwords; `protocol.local` has the rest."""

from protocol.local import LocalMessage
from protocol.types import Index


class AuthChanged(LocalMessage):
    """Whether rights matter, as of entry `applied`, and for whom they do not; ahead of any answer given under it.

    `token_news` is what the entry did to tokens, in order, each `(user, token)`: without a token all of the user's
    have ended, without a user all there are.
    """

    applied: Index
    enabled: bool
    revision: int
    roots: tuple[str, ...]
    token_news: tuple[tuple[str, str], ...]


class PasswordHandled(LocalMessage):
    """From the gateway's worker to the gateway: what call `call_id` needed a password hashed or checked for is done."""

    call_id: int
    code: int
    result: bytes
