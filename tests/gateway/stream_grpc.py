"""A gRPC server (grpcio, without generated code): `stream_grpc.py PORT NAME`. Talk echoes a stream, Once one message, Count says a number of messages,
Sum adds up their lengths, Refuse fails with the status and the text that it is asked for, Wait sleeps."""
import sys
import time
from concurrent import futures

import grpc


def refuse(message, context):
    code, _, text = message.partition(b" ")
    context.set_trailing_metadata([("reason-bin", b"\x00\x01\xff")])
    context.abort({code.value[0]: code for code in grpc.StatusCode}[int(code)], text.decode())


def wait(message, context):
    time.sleep(float(message))
    return b"%d" % (context.time_remaining() * 1000 if context.time_remaining() is not None else -1)


handler = grpc.method_handlers_generic_handler(
    "proof.Echo",
    {
        "Talk": grpc.stream_stream_rpc_method_handler(lambda messages, _: (message for message in messages)),
        "Once": grpc.unary_unary_rpc_method_handler(lambda message, _: message),
        "Count": grpc.unary_stream_rpc_method_handler(lambda message, _: (b"%d" % at for at in range(int(message)))),
        "Sum": grpc.stream_unary_rpc_method_handler(lambda messages, _: b"%d" % sum(map(len, messages))),
        "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
        "Wait": grpc.unary_unary_rpc_method_handler(wait),
    },
)
server = grpc.server(futures.ThreadPoolExecutor(16))
server.add_generic_rpc_handlers((handler,))
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
server.wait_for_termination()
