"""A gRPC server (grpcio, without generated code) that echoes a stream: `stream_grpc.py PORT NAME`."""
import sys
from concurrent import futures

import grpc

handler = grpc.method_handlers_generic_handler(
    "proof.Echo", {"Talk": grpc.stream_stream_rpc_method_handler(lambda messages, _: (message for message in messages))}
)
server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((handler,))
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
server.wait_for_termination()
