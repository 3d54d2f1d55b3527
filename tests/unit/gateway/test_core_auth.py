"""Authentication at the core: who is let in, calls of several steps, and watches that ask first."""

import msgpack
import pytest
from core_parts import applied, get, lead, make_core, method, only_turn, progress, put, served, tell, turn

from actors.actor import Source
from actors.effects import RunInBackground
from gateway.access import Need
from gateway.auth_desk import WORK_WAITING_MAX, WORKERS_MAX, Doorman
from gateway.core import GatewayCore
from gateway.credentials import NO_CREDENTIALS, NODE_ITSELF, Credentials, read_credentials
from gateway.methods import METHODS
from gateway.passwords import BcryptPasswords
from gateway.tokens import SimpleTokens
from protocol import local
from protocol.auth import Identity, decode_as, decode_token_order
from protocol.command import CommandKind, ReadKind, decode_batch
from protocol.errors import ClientError, ErrorCode
from protocol.rights import AuthChanged, PasswordHandled
from protocol.types import Index, Millis
from protocol.wire import rpc_pb2 as rpc

ALICE = Credentials("alice.3")


class FastPasswords:
    """Passwords whose hash is the password."""

    def hash(self, password: str) -> bytes:
        """Hash nothing."""
        if len(password) > 72:
            raise ClientError(ErrorCode.PASSWORD_TOO_LONG)
        return f"hash of {password}".encode()

    def matches(self, password: str, hashed: bytes) -> bool:
        """Compare."""
        return self.hash(password) == hashed

    def token_prefix(self) -> str:
        """No chance here."""
        return "prefix"


def changed(
    gateway: GatewayCore, *news: tuple[str, str], enabled: bool = True, revision: int = 7, at: int = 5, now: int = 0
) -> None:
    """The applier tells how the auth store stands."""
    message = AuthChanged(applied=Index(at), enabled=enabled, revision=revision, roots=("root",), token_news=news)
    tell(gateway, "applier", message, now)


@pytest.fixture
def core() -> GatewayCore:
    """A gateway with a leader, authentication on, and tokens of alice and root."""
    made = make_core(doorman=Doorman(SimpleTokens(ttl_ms=1000), FastPasswords()))
    lead(made, 1)
    progress(made, 5)
    changed(made, ("alice", "alice.3"), ("root", "root.4"))
    return made


def call(core: GatewayCore, call_id: int, name: str, body: bytes, who: Credentials, service: str = "KV") -> None:
    """Submit a request under credentials."""
    core.submit(call_id, method(name, service), body, Millis(0), None, who)


def only_command(core: GatewayCore) -> tuple[int, tuple[Identity, int, bytes]]:
    """End a turn that sends one command or read of somebody; return its sequence, and whose it is, kind and body."""
    message = only_turn(core)
    (command,) = decode_batch(message.payload).commands
    assert command.kind in (CommandKind.AS_USER, ReadKind.AS_USER)
    return message.sequence, decode_as(command.body)


def bare_command(core: GatewayCore) -> tuple[int, tuple[int, bytes]]:
    """The same of nobody."""
    message = only_turn(core)
    (command,) = decode_batch(message.payload).commands
    return message.sequence, command


def work(core: GatewayCore) -> list[PasswordHandled]:
    """End a turn and run what it leaves to workers."""
    effects = core.end_turn(Millis(0))
    assert all(isinstance(effect, RunInBackground) for effect in effects)
    return [effect.job() for effect in effects if isinstance(effect, RunInBackground)]  # type: ignore[misc]


def hand_back(core: GatewayCore, done: list[PasswordHandled]) -> None:
    """Give the core what workers have made."""
    for message in done:
        assert core.handle(message, Source("gateway"), Millis(0)) == []


# --- who is let in ---------------------------------------------------------------------------------


def test_a_command_travels_under_the_identity_of_its_token(core: GatewayCore) -> None:
    """User, and the auth revision as this gateway knows it; so do reads."""
    call(core, 1, "Put", put(), ALICE)
    assert only_command(core)[1] == (Identity("alice", 7), CommandKind.PUT, put())
    call(core, 2, "Range", get(), ALICE)
    assert only_command(core)[1] == (Identity("alice", 7), ReadKind.RANGE, get())
    changed(core, revision=8, at=6)
    call(core, 3, "Put", put(), ALICE)
    core.handle(applied(1, 0), Source("applier"), Millis(0))
    assert only_command(core)[1][0] == Identity("alice", 8)


def test_nothing_is_added_while_rights_do_not_matter(core: GatewayCore) -> None:
    """A token that is still sent is not looked at, and a command is what it always was."""
    changed(core, enabled=False, at=6)
    call(core, 1, "Put", put(), Credentials("rubbish"))
    assert bare_command(core)[1] == (CommandKind.PUT, put())


def test_a_common_name_is_a_user_unless_there_is_a_token(core: GatewayCore) -> None:
    """The token counts, even a wrong one."""
    call(core, 1, "Put", put(), Credentials(common_name="bob"))
    assert only_command(core)[1][0] == Identity("bob", 7)
    call(core, 2, "Put", put(), Credentials("rubbish", "bob"))
    assert core.answers == [(2, ErrorCode.INVALID_AUTH_TOKEN, b"")]


def test_credentials_are_read_from_metadata_as_etcd_reads_them() -> None:
    """`token` before `authorization`, with or without Bearer; what comes through a JSON gateway has no certificate."""

    def read(common_name: str = "", **fields: str) -> Credentials:
        metadata = {name.replace("_", "-").encode(): value.encode() for name, value in fields.items()}
        return read_credentials(metadata.get, common_name)

    assert read() is NO_CREDENTIALS
    assert read(token="a", authorization="b") == Credentials("a")
    assert read(authorization="Bearer b") == Credentials("b")
    assert read("cn") == Credentials(common_name="cn")
    assert read("cn", grpcgateway_accept="x") is NO_CREDENTIALS


def test_nobody_may_do_what_the_store_is_not_asked_about(core: GatewayCore) -> None:
    """The member list takes any user, members are changed by root alone, and the store's needs are the store's."""
    call(core, 1, "MemberList", b"", NO_CREDENTIALS, "Cluster")
    call(core, 2, "MemberList", b"", ALICE, "Cluster")
    body = rpc.MemberRemoveRequest(ID=1).SerializeToString()
    call(core, 3, "MemberRemove", body, NO_CREDENTIALS, "Cluster")
    call(core, 4, "MemberRemove", body, ALICE, "Cluster")
    codes = {call_id: code for call_id, code, _ in core.answers}
    assert codes == {1: ErrorCode.USER_EMPTY, 2: 0, 3: ErrorCode.USER_EMPTY, 4: ErrorCode.PERMISSION_DENIED}
    call(core, 5, "Put", put(), NO_CREDENTIALS)
    assert bare_command(core)[1] == (CommandKind.PUT, put()), "the store refuses it, as of then"


def test_every_method_says_what_it_needs() -> None:
    """What is not in the store's table of needs is for root: nothing becomes public by being forgotten."""
    open_to = {need: sorted(each.name for each in METHODS.values() if each.need is need) for need in Need}
    assert open_to[Need.NOTHING] == ["Authenticate"]
    assert open_to[Need.USER] == ["MemberList"]
    assert "MemberAdd" in open_to[Need.ROOT]


def test_the_nodes_own_checks_are_somebody_without_rights(core: GatewayCore) -> None:
    """A health check reads under an identity that may read nothing, so that the store can tell it from a client."""
    call(core, 1, "Range", get(), NODE_ITSELF)
    assert only_command(core)[1][0] == Identity("", -1)


def test_a_token_of_an_entry_to_come_is_waited_for(core: GatewayCore) -> None:
    """A token from another member is not refused because this one lags: the call waits for a barrier, once."""
    late = Credentials("late.9")
    call(core, 1, "Put", put(), late)
    call(core, 2, "Put", put(), Credentials("forged.99999"))
    message = only_turn(core)
    assert decode_batch(message.payload).commands == [(ReadKind.BARRIER, b"")] * 2
    changed(core, ("late", "late.9"), at=9)
    tell(core, "applier", served(message.sequence, (0, 0, b""), (1, 0, b""), index=9))
    assert only_command(core)[1][0] == Identity("late", 7)
    assert core.answers == [(2, ErrorCode.INVALID_AUTH_TOKEN, b"")]


def test_a_fresh_gateway_asks_before_it_believes_anybody() -> None:
    """Until the applier has told how things stand, a token is neither believed nor refused; bare commands just go."""
    core = make_core(doorman=Doorman(SimpleTokens(ttl_ms=1000), FastPasswords()), told=False)
    lead(core, 1)
    call(core, 1, "Put", put(), NO_CREDENTIALS)
    assert bare_command(core)[1] == (CommandKind.PUT, put())
    call(core, 2, "Put", put(), ALICE)
    message = only_turn(core)
    assert isinstance(message, local.ServeReads), "no leader is needed to look"
    changed(core)
    tell(core, "applier", served(message.sequence, (0, 0, b"")))
    assert core.answers == [(2, ErrorCode.INVALID_AUTH_TOKEN, b"")]


def test_what_a_restarted_applier_replays_takes_nothing_back(core: GatewayCore) -> None:
    """Its auth store goes through the past again, this gateway's knowledge does not."""
    changed(core, ("", ""), enabled=False, revision=1, at=2)
    call(core, 1, "Put", put(), ALICE)
    assert only_command(core)[1][0] == Identity("alice", 7)


# --- calls of several steps ------------------------------------------------------------------------


def authenticate(core: GatewayCore, call_id: int = 1, password: str = "pw") -> None:
    """Ask for a token of alice."""
    body = rpc.AuthenticateRequest(name="alice", password=password).SerializeToString()
    call(core, call_id, "Authenticate", body, NO_CREDENTIALS, "Auth")


def tell_credentials(core: GatewayCore, sequence: int, revision: int = 7, password: str = "pw") -> None:
    """The applier answers what to check against."""
    answer = msgpack.packb((revision, f"hash of {password}".encode()))
    tell(core, "applier", served(sequence, (0, 0, answer)))


def test_authenticate_looks_up_checks_and_has_a_token_assigned(core: GatewayCore) -> None:
    """The password goes to a worker and nowhere else; the entry has the name, the revision and the prefix."""
    authenticate(core)
    sequence, command = bare_command(core)
    assert command == (ReadKind.CREDENTIALS, b"alice")
    tell_credentials(core, sequence)
    hand_back(core, work(core))
    sequence, (kind, body) = bare_command(core)
    assert kind == CommandKind.ASSIGN_TOKEN
    assert decode_token_order(body) == ("alice", "prefix", 7)
    assert b"pw" not in body
    tell(core, "applier", applied(sequence, 0))
    assert core.answers == [(1, 0, b"response")]
    core.check_invariants()


def test_a_wrong_password_ends_it(core: GatewayCore) -> None:
    """Nothing is proposed."""
    authenticate(core, password="wrong")
    tell_credentials(core, bare_command(core)[0])
    hand_back(core, work(core))
    assert core.answers == [(1, ErrorCode.AUTH_FAILED, b"")]
    assert turn(core) == []


def test_a_change_of_users_on_the_way_begins_it_anew(core: GatewayCore) -> None:
    """What was checked may be another password by now."""
    authenticate(core)
    tell_credentials(core, bare_command(core)[0])
    hand_back(core, work(core))
    tell(core, "applier", applied(bare_command(core)[0], ErrorCode.AUTH_OLD_REVISION))
    assert core.answers == []
    assert bare_command(core)[1] == (ReadKind.CREDENTIALS, b"alice")


def test_signed_tokens_need_no_entry() -> None:
    """The worker signs; the header is the store's."""
    passwords = FastPasswords()
    signed = Doorman(SimpleTokens(1000), passwords, signs=True, signer=lambda user, revision: f"{user}@{revision}")
    for doorman, code in ((signed, 0), (signed._replace(signer=None), ErrorCode.TOKENS_VERIFIED_ONLY)):
        core = make_core(doorman=doorman)
        lead(core, 1)
        changed(core)
        authenticate(core)
        tell_credentials(core, bare_command(core)[0])
        hand_back(core, work(core))
        if not code:
            sequence, command = bare_command(core)
            assert command == (ReadKind.AUTH_STATUS, b"")
            header = rpc.ResponseHeader(revision=5)
            tell(core, "applier", served(sequence, (0, 0, rpc.AuthStatusResponse(header=header).SerializeToString())))
        (answer,) = core.answers
        assert answer[1] == code
        if not code:
            assert isinstance(answer[2], bytes)
            parsed = rpc.AuthenticateResponse.FromString(answer[2])
            assert (parsed.token, parsed.header.revision) == ("alice@7", 5)


def test_a_new_users_password_is_hashed_before_it_is_proposed(core: GatewayCore) -> None:
    """By root at once; by somebody else only if the store permits it, so nobody makes this node hash for nothing."""
    body = rpc.AuthUserAddRequest(name="u", password="secret").SerializeToString()
    call(core, 1, "UserAdd", body, Credentials("root.4"), "Auth")
    hand_back(core, work(core))
    _, (identity, kind, proposed) = only_command(core)
    assert (identity.user, kind) == ("root", CommandKind.USER_ADD)
    request = rpc.AuthUserAddRequest.FromString(proposed)
    assert (request.name, request.password) == ("u", "")
    assert request.hashedPassword == "aGFzaCBvZiBzZWNyZXQ="
    call(core, 2, "UserAdd", body, ALICE, "Auth")
    sequence, (identity, kind, _) = only_command(core)
    assert (identity.user, kind) == ("alice", ReadKind.PERMIT_ROOT)
    tell(core, "applier", served(sequence, (0, ErrorCode.PERMISSION_DENIED, b"")))
    assert core.answers == [(2, ErrorCode.PERMISSION_DENIED, b"")]
    assert work(core) == []


def test_no_password_and_given_hashes_are_not_hashed(core: GatewayCore) -> None:
    """A user without a password has none, whatever else was sent; a hash that was given is taken as it is."""
    root = Credentials("root.4")
    request = rpc.AuthUserAddRequest(name="u", password="secret")
    request.options.no_password = True
    call(core, 1, "UserAdd", request.SerializeToString(), root, "Auth")
    proposed = rpc.AuthUserAddRequest.FromString(only_command(core)[1][2])
    assert (proposed.password, proposed.hashedPassword, proposed.options.no_password) == ("", "", True)
    tell(core, "applier", applied(1, 0))
    given = rpc.AuthUserAddRequest(name="v", hashedPassword="aGFzaA==").SerializeToString()
    call(core, 2, "UserAdd", given, root, "Auth")
    assert only_command(core)[1][2] == given
    tell(core, "applier", applied(2, 0))
    long = rpc.AuthUserChangePasswordRequest(name="v", password="x" * 73).SerializeToString()
    call(core, 3, "UserChangePassword", long, root, "Auth")
    hand_back(core, work(core))
    assert core.answers[-1] == (3, ErrorCode.PASSWORD_TOO_LONG, b"")


def test_passwords_wait_for_workers_and_only_so_many_wait(core: GatewayCore) -> None:
    """Two are worked on at once; over the bound a call is refused; one that nobody waits for is not worked on."""
    root = Credentials("root.4")
    body = rpc.AuthUserChangePasswordRequest(name="u", password="pw").SerializeToString()
    for call_id in range(1, WORK_WAITING_MAX + 2):
        call(core, call_id, "UserChangePassword", body, root, "Auth")
    assert core.answers == [(WORK_WAITING_MAX + 1, ErrorCode.TOO_MANY_REQUESTS, b"")]
    first = work(core)
    assert len(first) == WORKERS_MAX
    assert work(core) == []
    core.cancel(3)
    core.check_invariants()
    hand_back(core, first[:1])
    effects = core.end_turn(Millis(0))
    jobs = [effect.job() for effect in effects if isinstance(effect, RunInBackground)]
    assert [job.call_id for job in jobs] == [4]  # type: ignore[attr-defined]


def test_a_call_between_two_steps_runs_out_like_any_other(core: GatewayCore) -> None:
    """The worker's answer to it is nobody's then."""
    body = rpc.AuthUserChangePasswordRequest(name="u", password="pw").SerializeToString()
    core.submit(1, method("UserChangePassword", "Auth"), body, Millis(0), Millis(50), Credentials("root.4"))
    done = work(core)
    core.wake(Millis(200))
    assert core.answers == [(1, ErrorCode.DEADLINE_EXCEEDED, b"")]
    hand_back(core, done)
    assert turn(core, 200) == []


def test_real_hashes_are_etcds_and_are_checked_once() -> None:
    """`$2a$` and the cost; a password that was found right is not hashed again, for the same hash only."""
    passwords = BcryptPasswords(cost=4)
    hashed = passwords.hash("secret")
    assert hashed.startswith(b"$2a$04$")
    assert passwords.matches("secret", hashed)
    assert passwords.matches("secret", hashed)
    assert not passwords.matches("Secret", hashed)
    assert not passwords.matches("secret", passwords.hash("other"))
    assert not passwords.matches("secret", b"no hash")
    assert not passwords.matches("", b"")
    with pytest.raises(ClientError, match="72 bytes"):
        passwords.hash("x" * 73)
    prefix = passwords.token_prefix()
    assert len(prefix) == 16
    assert prefix.isalpha()
    assert prefix != passwords.token_prefix()
