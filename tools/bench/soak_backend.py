"""The backend of soak.py: it does what the first line of a connection says, as a process of its own that can be killed."""

import asyncio
import random
import signal
import socket
import struct
import zlib

import systems

# What all transfers carry, again and again.
PATTERN = random.Random(1).randbytes(1 << 20)


def content(size):
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


async def backend_connection(reader, writer):
    """One line says what to do; GET and PUT can follow each other."""
    try:
        while line := await reader.readline():
            word, _, argument = line.decode().strip().partition(" ")
            size = int(argument or 0)
            if word == "GET":
                await send(writer, size)
            elif word == "PUT":
                total = await read_sum(reader, size)
                writer.write(total)
                await writer.drain()
            elif word == "END":
                writer.write(await read_sum(reader, None))
                await writer.drain()
                return
            elif word == "BYE":
                await send(writer, size)
                writer.write_eof()
                await read_sum(reader, None)
                return
            elif word == "DIE":
                await send(writer, size)
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return
            else:
                return
    except (OSError, ValueError):
        pass
    finally:
        writer.close()


async def send(writer, size):
    for start in range(0, size, 65536):
        offset = start % len(PATTERN)
        writer.write(PATTERN[offset:offset + min(65536, size - start)])
        await writer.drain()


async def read_sum(reader, size):
    """The checksum of what comes, in twelve octets: of so much, or up to the end."""
    total, left = 0, size
    while left is None or left > 0:
        data = await reader.read(65536 if left is None else min(65536, left))
        if not data:
            break
        total = zlib.crc32(data, total)
        left = None if left is None else left - len(data)
    return f"{total:012x}".encode()


def serve_backend(port):
    async def serve():
        server = await asyncio.start_server(backend_connection, systems.BACKEND, port, backlog=1024)
        async with server:
            await server.serve_forever()

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(serve())
