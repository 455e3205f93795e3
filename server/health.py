"""Asking a SuperLink whether it serves, by gRPC's own health service on loopback (docs/flower.md, finding 29)."""

WAIT = 3.0
"""Seconds for an answer."""


def health(port: int) -> str:
    """Say how the SuperLink is: "serving", "not serving" or "does not answer".

    Args:
        port: of its health service, on loopback.
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    options = (("grpc.enable_http_proxy", 0),)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=WAIT)
    except grpc.RpcError:
        return "does not answer"
    return "serving" if answer.status == health_pb2.HealthCheckResponse.SERVING else "not serving"
