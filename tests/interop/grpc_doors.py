"""Two stores behind gRPC, asked the same by grpcio: a client no one here wrote."""

from typing import Any

import grpc
from google.protobuf.message import Message
from kv_answers import Answer

from protocol.wire import rpc_pb2 as rpc

CALL_S = 30.0
METHODS: dict[Any, tuple[str, Any]] = {
    rpc.RangeRequest: ("KV/Range", rpc.RangeResponse),
    rpc.PutRequest: ("KV/Put", rpc.PutResponse),
    rpc.DeleteRangeRequest: ("KV/DeleteRange", rpc.DeleteRangeResponse),
    rpc.TxnRequest: ("KV/Txn", rpc.TxnResponse),
    rpc.CompactionRequest: ("KV/Compact", rpc.CompactionResponse),
    rpc.HashKVRequest: ("Maintenance/HashKV", rpc.HashKVResponse),
    rpc.StatusRequest: ("Maintenance/Status", rpc.StatusResponse),
    rpc.LeaseGrantRequest: ("Lease/LeaseGrant", rpc.LeaseGrantResponse),
    rpc.LeaseRevokeRequest: ("Lease/LeaseRevoke", rpc.LeaseRevokeResponse),
    rpc.LeaseTimeToLiveRequest: ("Lease/LeaseTimeToLive", rpc.LeaseTimeToLiveResponse),
    rpc.LeaseLeasesRequest: ("Lease/LeaseLeases", rpc.LeaseLeasesResponse),
    rpc.MemberListRequest: ("Cluster/MemberList", rpc.MemberListResponse),
    rpc.MemberAddRequest: ("Cluster/MemberAdd", rpc.MemberAddResponse),
    rpc.MemberRemoveRequest: ("Cluster/MemberRemove", rpc.MemberRemoveResponse),
    rpc.MoveLeaderRequest: ("Maintenance/MoveLeader", rpc.MoveLeaderResponse),
}


class Door:
    """A connection to one endpoint."""

    def __init__(self, address: str, **options: Any) -> None:
        sizes = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(address, sizes, **options)
        self._methods = {
            form: self.channel.unary_unary(
                f"/etcdserverpb.{name}",
                request_serializer=form.SerializeToString,
                response_deserializer=response.FromString,
            )
            for form, (name, response) in METHODS.items()
        }

    def ask(self, request: Message, timeout_s: float = CALL_S) -> Any:
        """Send a request; return the future of its answer."""
        return self._methods[type(request)].future(request, timeout=timeout_s, wait_for_ready=True)

    def answer(self, request: Message, timeout_s: float = CALL_S) -> Answer:
        """Send a request; return its answer."""
        return answer_of(self.ask(request, timeout_s))

    def keep_alive(self, *leases: int, timeout_s: float = CALL_S) -> list[rpc.LeaseKeepAliveResponse]:
        """Send keep-alives on one stream; return its answers."""
        stream = self.channel.stream_stream(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            request_serializer=rpc.LeaseKeepAliveRequest.SerializeToString,
            response_deserializer=rpc.LeaseKeepAliveResponse.FromString,
        )
        requests = iter([rpc.LeaseKeepAliveRequest(ID=lease) for lease in leases])
        return list(stream(requests, timeout=timeout_s, wait_for_ready=True))

    def raw(self, path: str, body: bytes, timeout_s: float = CALL_S, **options: Any) -> Answer:
        """Call any path with any bytes; return the bytes of the answer, or the error."""
        method = self.channel.unary_unary(path, request_serializer=None, response_deserializer=None)
        return answer_of(method.future(body, timeout=timeout_s, wait_for_ready=True, **options))


def answer_of(future: Any) -> Answer:
    """Wait for an answer; return the name of its status, and the response or the error's text."""
    try:
        return "OK", future.result()
    except grpc.RpcError as error:
        return error.code().name, error.details()
