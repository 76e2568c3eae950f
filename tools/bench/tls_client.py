"""A TLS client that can do what `ssl.SSLSocket` can't: end one direction, reset, and vanish without a word.

The protocol runs in memory, the socket is a plain one. A [`Client`] waits; [`Machine`] alone is for scripts that drive
many connections from one loop.
"""

import socket
import ssl
import struct


class Machine:
    """One connection's TLS without its socket: bytes of the network in and out."""

    def __init__(self, context, name, session=None):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name, session=session)
        self.ended = False

    def handshake(self, received=b""):
        """Goes on with the handshake; true when it is done. `outgoing` is to be sent in either case."""
        if received:
            self.incoming.write(received)
        try:
            self.tls.do_handshake()
            return True
        except ssl.SSLWantReadError:
            return False

    def decrypt(self, received):
        """What the peer said; `ended` tells whether it has said that it is done."""
        self.incoming.write(received)
        data = b""
        try:
            while piece := self.tls.read(65536):
                data += piece
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        return data

    def encrypt(self, data):
        """The records of this message."""
        self.tls.write(data)
        return self.outgoing.read()

    def close_notify(self):
        """The record by which this side says that it is done."""
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass
        return self.outgoing.read()


class Truncated(Exception):
    """The peer's stream ended without close_notify."""


class Client:
    """A connection that waits for what it does, at most the socket's timeout."""

    def __init__(self, context, address, name, source=None, timeout=30, session=None, receive_buffer=None):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self.socket.settimeout(timeout)
            if receive_buffer:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if source:
                # The port is chosen at connect, so that an address has as many as there are peers for it.
                self.socket.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
                self.socket.bind((source, 0))
            self.socket.connect(address)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.machine = Machine(context, name, session)
            received = b""
            while not self.machine.handshake(received):
                self.flush()
                received = self.socket.recv(65536)
                if not received:
                    raise Truncated("in the handshake")
            self.flush()
        except BaseException:
            self.socket.close()
            raise

    def flush(self):
        if pending := self.machine.outgoing.read():
            self.socket.sendall(pending)

    def send(self, data):
        for start in range(0, len(data), 65536):
            self.socket.sendall(self.machine.encrypt(data[start:start + 65536]))

    def receive(self):
        """Some bytes, or none at the end that the peer has announced."""
        data = b""
        while not data and not self.machine.ended:
            received = self.socket.recv(65536)
            if not received:
                raise Truncated("no close_notify")
            data = self.machine.decrypt(received)
            self.flush()
        return data

    def end(self):
        """This side writes no more; the other direction goes on."""
        self.socket.sendall(self.machine.close_notify())
        self.socket.shutdown(socket.SHUT_WR)

    def close(self):
        """An orderly end, without waiting for the peer's."""
        try:
            self.socket.sendall(self.machine.close_notify())
        finally:
            self.socket.close()

    def reset(self):
        """RST instead of an end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
