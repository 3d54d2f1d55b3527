"""A client with a user: when it shows its password, and what becomes of calls and watches meanwhile."""

from collections.abc import Sequence

import pytest
from test_actd_session import FOUND, GET, PUT, STORED, Talk

from actd import auth_calls
from actd.errors import ActdError, RequestRefused
from actd.login import LOGINS_PER_CALL_MAX, PAUSE_S, Login
from actd.range_feed import RangeFeed
from actd.session import RETRY_S
from protocol.client import CallBatch, CancelCalls, ClientRefused, OpenStream, StreamEnded, StreamMessages, UseToken
from protocol.errors import WIRE_ERRORS, ErrorCode
from protocol.message import Message
from protocol.wire import rpc_pb2 as rpc
from protocol.wire.mvcc_pb2 import KeyValue

AUTHENTICATE = 23


def token(name: str = "t.1") -> bytes:
    """The answer to a right password."""
    return rpc.AuthenticateResponse(token=name).SerializeToString()


class LoginTalk(Talk):
    """A talk of a client with a user, and a door that has greeted it."""

    def __init__(self) -> None:
        super().__init__()
        self.session.login = Login("alice", "pw")
        self.ask(PUT)
        self.turn()
        self.greet()

    def shown(self, messages: list[Message]) -> int:
        """Return the id of the one call in what was sent, which must show the password."""
        ((call_id, method, _, body),) = self.sent(messages)
        assert method == AUTHENTICATE
        assert rpc.AuthenticateRequest.FromString(body) == rpc.AuthenticateRequest(name="alice", password="pw")
        return call_id

    def log_in(self, name: str = "t.1") -> list[Message]:
        """Answer the password that is being shown; return what is sent then."""
        self.answer(self.shown(self.turn()), body=token(name))
        return self.turn()


def test_a_call_waits_for_the_token_and_goes_behind_it() -> None:
    """First the password alone, then the token, then everything that waited."""
    talk = LoginTalk()
    messages = talk.log_in()
    assert [type(message) for message in messages] == [UseToken, CallBatch]
    assert messages[0] == UseToken(token="t.1")
    talk.answer(talk.sent(messages)[0][0])
    assert talk.ended[0][1] is None
    talk.ask(GET)
    assert [type(message) for message in talk.turn()] == [CallBatch], "the door knows the token"


def test_nothing_is_shown_before_anything_is_asked() -> None:
    """A client that only exists costs the cluster no hash."""
    talk = Talk()
    talk.session.login = Login("alice", "pw")
    assert talk.turn() == []


def test_where_no_token_is_asked_for_calls_go_without() -> None:
    """Authentication is off: nothing is announced; once it is on, a refused call makes the client log in."""
    talk = LoginTalk()
    talk.answer(talk.shown(talk.turn()), ErrorCode.AUTH_NOT_ENABLED)
    messages = talk.turn()
    assert [type(message) for message in messages] == [CallBatch]
    talk.answer(talk.sent(messages)[0][0], ErrorCode.USER_EMPTY)
    assert talk.ended == []
    (_, again) = talk.log_in("t.2")
    talk.answer(talk.sent([again])[0][0])
    assert talk.ended[0][1] is None


@pytest.mark.parametrize("code", [ErrorCode.INVALID_AUTH_TOKEN, ErrorCode.AUTH_OLD_REVISION])
def test_a_call_refused_for_its_token_is_sent_again_under_another(code: ErrorCode) -> None:
    """Even a write: it was certainly not begun. Two calls that were refused for one token make one login."""
    talk = LoginTalk()
    talk.ask(PUT)
    ids = [call_id for call_id, _, _, _ in talk.sent(talk.log_in())]
    for call_id in ids:
        talk.answer(call_id, code)
    messages = talk.log_in("t.2")
    assert messages[0] == UseToken(token="t.2")
    again = talk.sent(messages)
    assert len(again) == 2
    for call_id, _, _, _ in again:
        talk.answer(call_id)
    assert [error for _, error in talk.ended] == [None, None]


def test_a_call_is_not_sent_again_for_ever() -> None:
    """After so many tokens the refusal is told."""
    talk = LoginTalk()
    for number in range(LOGINS_PER_CALL_MAX):
        talk.answer(talk.sent(talk.log_in(f"t.{number}"))[0][0], ErrorCode.INVALID_AUTH_TOKEN)
        assert talk.ended == []
    talk.answer(talk.sent(talk.log_in("last.1"))[0][0], ErrorCode.INVALID_AUTH_TOKEN)
    assert talk.error.code == ErrorCode.INVALID_AUTH_TOKEN


def test_a_wrong_password_ends_everything_that_waits() -> None:
    """With etcd's words, and at once; the next call tries again."""
    talk = LoginTalk()
    talk.ask(GET)
    talk.answer(talk.shown(talk.turn()), ErrorCode.AUTH_FAILED)
    assert [type(error) for _, error in talk.ended] == [RequestRefused, RequestRefused]
    assert "invalid user ID or password" in str(talk.ended[0][1])
    talk.ask(GET)
    talk.shown(talk.turn(PAUSE_S))


def test_a_password_that_nobody_could_check_is_shown_again_after_a_pause() -> None:
    """Calls wait on; they end by their own time."""
    talk = LoginTalk()
    talk.answer(talk.shown(talk.turn()), ErrorCode.TIMEOUT)
    assert talk.turn() == []
    assert talk.session.deadline(talk.now) <= talk.now + PAUSE_S
    talk.shown(talk.turn(PAUSE_S))
    assert talk.ended == []


def test_a_new_conversation_is_told_the_token_again() -> None:
    """It is part of the conversation at the door, and stays good at every member."""
    talk = LoginTalk()
    talk.answer(talk.sent(talk.log_in())[0][0])
    talk.hear(ClientRefused(code="hello_first", reason="restarted", call_ids=()))
    talk.turn()
    talk.greet(conversation=2)
    talk.ask(GET)
    messages = talk.turn()
    assert [type(message) for message in messages] == [UseToken, CallBatch]
    talk.answer(talk.sent(messages)[0][0], body=FOUND)


class Watcher:
    """Who watches, and what it has heard."""

    method = 102

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.error: ActdError | None = None

    def opening(self) -> tuple[bytes, ...]:
        """Ask for something."""
        return (b"",)

    def on_messages(self, messages: Sequence[bytes]) -> None:
        """Hear."""
        self.heard += messages

    def on_end(self, error: ActdError | None) -> bool:
        """Give up."""
        self.error = error
        return False


def refusal(code: ErrorCode) -> bytes:
    """The first and last response of a watcher that is refused."""
    error = WIRE_ERRORS[code]
    reason = f"rpc error: code = {error.grpc_code.name} desc = {error.text}"
    return rpc.WatchResponse(watch_id=-1, created=True, canceled=True, cancel_reason=reason).SerializeToString()


def test_a_watch_whose_token_has_run_out_is_resumed_under_another() -> None:
    """Its user hears nothing of it; a refusal for want of rights it does hear."""
    talk = LoginTalk()
    watcher = Watcher()
    talk.session.streams.add(watcher)
    messages = talk.log_in()
    assert [type(message) for message in messages] == [UseToken, CallBatch, OpenStream]
    talk.answer(talk.sent(messages)[0][0])
    opened = messages[-1]
    assert isinstance(opened, OpenStream)
    talk.hear(StreamMessages(call_id=opened.call_id, messages=(refusal(ErrorCode.INVALID_AUTH_TOKEN),)))
    assert watcher.heard == []
    messages = talk.turn()
    assert CancelCalls(call_ids=(opened.call_id,)) in messages
    talk.answer(talk.shown([message for message in messages if isinstance(message, CallBatch)]), body=token("t.2"))
    messages = talk.turn(RETRY_S)
    assert [type(message) for message in messages] == [UseToken, OpenStream]
    again = messages[-1]
    assert isinstance(again, OpenStream)
    denied = refusal(ErrorCode.PERMISSION_DENIED)
    talk.hear(StreamMessages(call_id=again.call_id, messages=(denied,)))
    assert watcher.heard == [denied]


def test_a_streamed_range_goes_on_under_another_token() -> None:
    """One whose token has run out half way is opened again from where it was; one that no token helps is told."""
    talk = LoginTalk()
    feed = RangeFeed(b"a", b"b", revision=9, limit=0, keys_only=False)
    talk.session.streams.add(feed)
    opened = talk.log_in()[-1]
    assert isinstance(opened, OpenStream)
    piece = rpc.RangeStreamResponse(range_response=rpc.RangeResponse(kvs=[KeyValue(key=b"aa")])).SerializeToString()
    talk.hear(StreamMessages(call_id=opened.call_id, messages=(piece,)))
    code = ErrorCode.AUTH_OLD_REVISION
    for number in range(LOGINS_PER_CALL_MAX):
        talk.hear(StreamEnded(call_id=opened.call_id, code=code, text=WIRE_ERRORS[code].text))
        assert feed.error is None
        messages = [message for message in talk.turn() if isinstance(message, CallBatch)]
        talk.answer(talk.shown(messages[-1:]), body=token(f"t.{number + 2}"))
        opened = talk.turn(RETRY_S)[-1]
        assert isinstance(opened, OpenStream)
        assert rpc.RangeRequest.FromString(opened.messages[0]).key == b"aa\0"
    talk.hear(StreamEnded(call_id=opened.call_id, code=code, text=WIRE_ERRORS[code].text))
    assert isinstance(feed.error, RequestRefused)


def test_a_client_without_a_user_is_told_what_it_was_refused_for() -> None:
    """It has nothing to cure it with."""
    talk = Talk()
    (call_id,) = talk.begin(PUT)
    talk.answer(call_id, ErrorCode.USER_EMPTY)
    assert talk.error.code == ErrorCode.USER_EMPTY


def test_admin_calls_speak_etcds_messages() -> None:
    """Requests parse with the generated classes, answers come back as results."""
    granted = rpc.AuthRoleGrantPermissionRequest.FromString(auth_calls.role_grant("r", "readwrite", "a", "b").body)
    assert (granted.name, granted.perm.permType, granted.perm.key, granted.perm.range_end) == ("r", 2, b"a", b"b")
    revoked = rpc.AuthRoleRevokePermissionRequest.FromString(auth_calls.role_revoke("r", "a", "b").body)
    assert (revoked.role, revoked.key, revoked.range_end) == ("r", b"a", b"b")
    added = rpc.AuthUserAddRequest.FromString(auth_calls.user_add("u", no_password=True).body)
    assert (added.name, added.options.no_password) == ("u", True)
    assert rpc.AuthUserGrantRoleRequest.FromString(auth_calls.user_grant_role("u", "r").body).role == "r"
    role = rpc.AuthRoleGetResponse(perm=[granted.perm]).SerializeToString()
    (permission,) = auth_calls.role_permissions("r").read(role)
    assert (permission.kind, permission.key, permission.range_end) == ("readwrite", b"a", b"b")
    names = rpc.AuthUserListResponse(users=["a", "b"]).SerializeToString()
    assert auth_calls.users().read(names) == ("a", "b")
    status = rpc.AuthStatusResponse(enabled=True, authRevision=7).SerializeToString()
    assert auth_calls.status().read(status).auth_revision == 7
    assert auth_calls.enable().read(STORED).revision == 7
