"""Calls that take several steps: a password is checked or hashed on the way, or this node must catch up first.

Owns the steps of each such call and the work that waits for a worker. Knows the core as a way to ask and to answer,
and no algorithm: `gateway.passwords` does the slow work, in threads, never in a turn.

Invariants: at most `WORKERS_MAX` passwords are worked on at once, so that the loop keeps a processor, and at most
`WORK_WAITING_MAX` wait; nothing is hashed for who may not do what it is hashed for; a password is in no log, no
message and no answer.
"""

import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import msgpack

from actors.effects import Effect, RunInBackground
from gateway.access import Access
from gateway.calls import Body, Lane, whole
from gateway.credentials import Credentials
from gateway.methods import PERMIT_ROOT, PERMIT_WATCH
from gateway.own_calls import OnAnswer, OwnCalls
from gateway.passwords import BcryptPasswords, Passwords
from gateway.tokens import SimpleTokens, Tokens
from protocol.auth import NOBODY_KNOWN, Identity, TokenOrder, encode_token_order
from protocol.auth_options import SIMPLE
from protocol.command import CommandKind, ReadKind
from protocol.config import AuthConfig
from protocol.errors import ClientError, ErrorCode
from protocol.rights import PasswordHandled
from protocol.types import Millis
from protocol.wire import rpc_pb2 as rpc

WORKERS_MAX: Final = 2
WORK_WAITING_MAX: Final = 1000

Step = Callable[[int, bytes], None]
"""Goes on with a call that was answered with a code and a body."""
Signer = Callable[[str, int], str]
"""Makes a signed token of a user and an auth revision; slow."""


class Asking(NamedTuple):
    """One call on its way through its steps."""

    call_id: int
    deadline: Millis | None
    identity: Identity = NOBODY_KNOWN


class Doorman(NamedTuple):
    """What a gateway knows of tokens and passwords."""

    tokens: Tokens
    passwords: Passwords
    signs: bool = False
    """Whether tokens are signed ones."""
    signer: Signer | None = None
    """None: this node can only verify them."""

    @classmethod
    def of(cls, config: AuthConfig) -> "Doorman":
        """Return what the configuration says of tokens and passwords.

        Raises:
            ConfigError: a key of signed tokens cannot be used.
        """
        options, passwords = config.token_options, BcryptPasswords(config.bcrypt_cost)
        if options.kind == SIMPLE:
            return cls(SimpleTokens(config.token_ttl_s * 1000), passwords)
        from gateway.signed_tokens import SignedTokens  # its libraries are large, and mostly not needed

        tokens = SignedTokens(options, time.time)
        return cls(tokens, passwords, True, tokens.sign if tokens.may_sign else None)


class DeskCore(Protocol):
    """What the desk needs of a `GatewayCore`."""

    access: Access
    now: Millis

    def submit(
        self, call_id: int, method: Any, body: bytes, now: Millis, deadline: Millis | None, credentials: Credentials
    ) -> None:
        """Begin a call anew."""
        ...

    def ask(self, lane: Lane | None, call: Asking, kind: int, body: bytes) -> bool:
        """Open a call for its next step, in a lane or in none; False if it was refused."""
        ...

    def answer(self, call_id: int, code: int, body: Body) -> None:
        """Answer a call that is open, or take its next step."""
        ...

    def finish(self, call_id: int, code: int, body: Body) -> None:
        """Answer a call that is not open any more."""
        ...


class _Work(NamedTuple):
    call_id: int
    run: Callable[[], bytes]


class AuthDesk:
    """The calls of one gateway that take several steps."""

    def __init__(
        self, core: DeskCore, doorman: Doorman, own: OwnCalls, commands: Lane, reads: Lane, local_reads: Lane
    ) -> None:
        self.steps: dict[int, Step] = {}
        """What the answer of an open call leads to, instead of going out."""
        self._core = core
        self._own = own
        self._commands = commands
        self._reads = reads
        self._local_reads = local_reads
        self._passwords = doorman.passwords
        self._signer = doorman.signer
        self._signs = doorman.signs
        self.waiting: deque[_Work] = deque()
        self._running: dict[int, None] = {}

    # --- beginnings --------------------------------------------------------------------------------

    def refused(
        self,
        code: ErrorCode,
        call_id: int,
        method: Any,
        body: bytes,
        now: Millis,
        deadline: Millis | None,
        credentials: Credentials,
    ) -> None:
        """Answer a call that was not admitted; one of which that cannot be told yet begins anew in a while."""
        core = self._core
        self._core.now = now
        if code != ErrorCode.PENDING:
            core.finish(call_id, code, b"")
            return

        def again(outcome: int, _body: bytes) -> None:
            if outcome:
                core.finish(call_id, outcome, b"")
            else:
                core.submit(call_id, method, body, core.now, deadline, credentials._replace(waited=True))

        lane = self._reads if core.access.enabled else self._local_reads
        self._ask(Asking(call_id, deadline), lane, ReadKind.BARRIER, b"", again)

    def begin(
        self, call_id: int, kind: int, body: bytes, now: Millis, deadline: Millis | None, identity: Identity
    ) -> None:
        """Begin a call whose route leads here; `body` was parsed before."""
        self._core.now = now
        call = Asking(call_id, deadline, identity)
        if kind == CommandKind.ASSIGN_TOKEN:
            request = rpc.AuthenticateRequest.FromString(body)
            self._authenticate(call, request.name, request.password)
        elif kind == CommandKind.USER_ADD:
            self._add_user(call, rpc.AuthUserAddRequest.FromString(body))
        else:
            self._change_password(call, rpc.AuthUserChangePasswordRequest.FromString(body))

    def permit_watch(self, body: bytes, now: Millis, credentials: Credentials, on_answer: OnAnswer) -> bool:
        """Ask whether a stream may watch a range, if that is a question; False if it is none."""
        if self._core.access.guarded:
            self._own.submit(PERMIT_WATCH, body, now, credentials, on_answer)
        return self._core.access.guarded

    def permit_root(self, now: Millis, credentials: Credentials, on_answer: OnAnswer) -> bool:
        """Ask whether a stream is root's, if that is a question; False if it is none."""
        if self._core.access.guarded:
            self._own.submit(PERMIT_ROOT, b"", now, credentials, on_answer)
        return self._core.access.guarded

    # --- Authenticate ------------------------------------------------------------------------------

    def _authenticate(self, call: Asking, name: str, password: str) -> None:
        """Look up what to check against, check, have a token assigned; again from the front if users have changed."""

        def on_credentials(code: int, body: bytes) -> None:
            if code:
                self._core.finish(call.call_id, code, b"")
                return
            revision, hashed = msgpack.unpackb(body)
            self._work(call, partial(self._check, name, password, hashed, revision), partial(on_checked, revision))

        def on_checked(revision: int, code: int, result: bytes) -> None:
            core = self._core
            if code:
                core.finish(call.call_id, code, b"")
            elif self._signs:
                self._ask(call, self._local_reads, ReadKind.AUTH_STATUS, b"", partial(on_header, result.decode()))
            else:
                order = encode_token_order(TokenOrder(name, result.decode(), revision))
                self._ask(call, self._commands, CommandKind.ASSIGN_TOKEN, order, on_assigned)

        def on_header(token: str, code: int, body: bytes) -> None:
            answer = rpc.AuthenticateResponse(token=token)
            if not code:
                answer.header.CopyFrom(rpc.AuthStatusResponse.FromString(body).header)
            self._core.finish(call.call_id, code, b"" if code else answer.SerializeToString())

        def on_assigned(code: int, body: bytes) -> None:
            if code == ErrorCode.AUTH_OLD_REVISION:
                self._authenticate(call, name, password)
            else:
                self._core.finish(call.call_id, code, body)

        self._ask(call, self._reads, ReadKind.CREDENTIALS, name.encode(), on_credentials)

    def _check(self, name: str, password: str, hashed: bytes, revision: int) -> bytes:
        """Return the token, or what it begins with; runs in a worker."""
        if not self._passwords.matches(password, hashed):
            raise ClientError(ErrorCode.AUTH_FAILED)
        if not self._signs:
            return self._passwords.token_prefix().encode()
        if self._signer is None:
            raise ClientError(ErrorCode.TOKENS_VERIFIED_ONLY)
        return self._signer(name, revision).encode()

    # --- UserAdd and UserChangePassword ------------------------------------------------------------

    def _add_user(self, call: Asking, request: rpc.AuthUserAddRequest) -> None:
        """A hash that the client brings is taken as it is; where no password is wanted, none is looked at."""
        if request.options.no_password:
            request.password = request.hashedPassword = ""
        if request.options.no_password or (request.hashedPassword and not request.password):
            self._propose(call, CommandKind.USER_ADD, request)
        else:
            self._with_hash(call, CommandKind.USER_ADD, request)

    def _change_password(self, call: Asking, request: rpc.AuthUserChangePasswordRequest) -> None:
        if request.password:
            self._with_hash(call, CommandKind.USER_CHANGE_PASSWORD, request)
        else:
            self._propose(call, CommandKind.USER_CHANGE_PASSWORD, request)

    def _with_hash(
        self, call: Asking, kind: CommandKind, request: rpc.AuthUserAddRequest | rpc.AuthUserChangePasswordRequest
    ) -> None:
        """Propose `request` with the hash of its password, once it is known that it may be."""
        password = request.password
        request.password = ""

        def on_permitted(code: int, _body: bytes) -> None:
            if code:
                self._core.finish(call.call_id, code, b"")
            else:
                self._work(call, lambda: self._passwords.hash(password), on_hashed)

        def on_hashed(code: int, hashed: bytes) -> None:
            if code:
                self._core.finish(call.call_id, code, b"")
                return
            request.hashedPassword = b64encode(hashed).decode()
            self._propose(call, kind, request)

        access = self._core.access
        if access.enabled and call.identity.user not in access.roots:
            self._ask(call, self._reads, ReadKind.PERMIT_ROOT, b"", on_permitted)
        else:
            on_permitted(0, b"")

    def _propose(
        self, call: Asking, kind: CommandKind, request: rpc.AuthUserAddRequest | rpc.AuthUserChangePasswordRequest
    ) -> None:
        self._core.ask(self._commands, call, kind, request.SerializeToString())

    # --- steps -------------------------------------------------------------------------------------

    def _ask(self, call: Asking, lane: Lane, kind: int, body: bytes, step: Step) -> None:
        if self._core.ask(lane, call, kind, body):
            self.steps[call.call_id] = step

    def _work(self, call: Asking, run: Callable[[], bytes], step: Step) -> None:
        """Have a worker run something; `step` is told what it returns, or the error it raises."""
        core = self._core
        if len(self.waiting) >= WORK_WAITING_MAX:
            core.finish(call.call_id, ErrorCode.TOO_MANY_REQUESTS, b"")
        elif core.ask(None, call, 0, b""):
            self.steps[call.call_id] = step
            self.waiting.append(_Work(call.call_id, run))

    def take_work(self) -> list[Effect]:
        """Return what workers are to do from now on; called at the end of each turn."""
        effects: list[Effect] = []
        while self.waiting and len(self._running) < WORKERS_MAX:
            work = self.waiting.popleft()
            if work.call_id in self.steps:
                self._running[work.call_id] = None
                effects.append(RunInBackground(partial(_run, work), "password"))
        return effects

    def on_handled(self, message: PasswordHandled) -> None:
        """A worker is done."""
        del self._running[message.call_id]
        if message.call_id in self.steps:
            self._core.answer(message.call_id, message.code, message.result)

    def goes_on(self, call_id: int, code: int, body: Body) -> bool:
        """Take the next step of a call that was answered and is open no more; False if it has none."""
        step = self.steps.pop(call_id, None)
        if step is None:
            return False
        step(code, whole(body))
        return True

    def at_work(self) -> list[int]:
        """Return the calls that are in no lane because a worker has them, or will."""
        return [*self._running, *(work.call_id for work in self.waiting)]


def _run(work: _Work) -> PasswordHandled:
    try:
        return PasswordHandled(call_id=work.call_id, code=0, result=work.run())
    except ClientError as error:
        return PasswordHandled(call_id=work.call_id, code=int(error.code), result=b"")
