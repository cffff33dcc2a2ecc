"""A WebSocket echo server (the `websockets` package): `stream_ws.py PORT NAME`. /greeting greets at once."""
import asyncio
import sys

from websockets.asyncio.server import serve


async def echo(socket):
    if socket.request.path == "/greeting":
        await socket.send("hello")
    async for message in socket:
        await socket.send(message)


async def main():
    async with serve(echo, "127.0.0.1", int(sys.argv[1]), max_size=8 << 20) as server:
        await server.serve_forever()


asyncio.run(main())
