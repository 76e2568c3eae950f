"""What the clients of soak.py do: one method for each kind of visit."""

import random
import socket
import ssl
import time
import zlib

from gateway import DOMAIN
from soak_backend import content
from tls_client import Client, Truncated

SMALL, PIECE = 64, 1_500_000

# How often each kind comes, in proportion.
WEIGHTS = {
    "handshake": 20, "resumed": 8, "tls12": 5, "keepalive": 8, "down": 8, "up": 6, "client_ends": 5, "backend_ends": 5,
    "slow": 3, "reset_down": 5, "reset_up": 5, "leave": 4, "backend_dies": 4, "mortal": 4, "nobody": 3, "unknown": 4,
    "distrust": 3, "garbage": 6, "redirect": 6, "bad_request": 2,
}


class Unexpected(Exception):
    """A client met what it should not have met."""


class Clients:
    """What clients do. Each method is one visit; it raises when something is wrong."""

    def __init__(self, system, folder, addresses, over):
        self.address, self.addresses, self.over = (system.service, 443), addresses, over
        self.plain = (system.service, 80)
        self.context = ssl.create_default_context(cafile=folder / "cert.pem")
        self.strangers = ssl.create_default_context()
        self.strangers.check_hostname = False
        self.old = ssl.create_default_context(cafile=folder / "cert.pem")
        self.old.maximum_version = ssl.TLSVersion.TLSv1_2
        self.session = None

    def connect(self, name="n1", context=None, **options):
        source = options.pop("source", None) or random.choice(self.addresses)
        return Client(context or self.context, self.address, f"{name}.{DOMAIN}", source, **options)

    def raw(self, address=None):
        return socket.create_connection(address or self.address, 30, (random.choice(self.addresses), 0))

    def expect(self, client, size, pause=0, step=None):
        """Reads so much and compares it."""
        total, got = 0, 0
        while got < size:
            data = client.receive()
            if not data:
                raise Unexpected(f"the stream ended after {got} of {size}: {data!r}")
            total, got = zlib.crc32(data, total), got + len(data)
            if pause:
                time.sleep(pause)
        if got > size or total != zlib.crc32(content(size)):
            raise Unexpected(f"{got} octets instead of {size}, or others")

    def ask(self, client, size, **options):
        client.send(f"GET {size}\n".encode())
        self.expect(client, size, **options)

    def expect_sum(self, client, size):
        answer = b""
        while len(answer) < 12:
            data = client.receive()
            if not data:
                raise Unexpected(f"no checksum but {answer!r}")
            answer += data
        if answer != f"{zlib.crc32(content(size)):012x}".encode():
            raise Unexpected("another checksum")

    def handshake(self):
        client = self.connect()
        self.ask(client, SMALL)
        client.close()

    def resumed(self):
        client = self.connect(session=self.session)
        self.ask(client, SMALL)
        self.session = client.machine.tls.session
        client.close()

    def tls12(self):
        client = self.connect(context=self.old)
        self.ask(client, SMALL)
        client.close()

    def keepalive(self):
        client = self.connect()
        for _ in range(20):
            self.ask(client, SMALL)
            time.sleep(random.uniform(0, 0.1))
        client.close()

    def kept(self):
        """Mostly silent for half a minute to two."""
        client = self.connect()
        for _ in range(4):
            self.ask(client, SMALL)
            if self.over.wait(random.uniform(8, 30)):
                break
        client.close()

    def down(self):
        client = self.connect()
        self.ask(client, PIECE)
        client.close()

    def up(self):
        client = self.connect()
        client.send(f"PUT {PIECE}\n".encode() + content(PIECE))
        self.expect_sum(client, PIECE)
        client.close()

    def client_ends(self):
        client = self.connect()
        client.send(b"END\n" + content(300_000))
        client.end()
        self.expect_sum(client, 300_000)
        if client.receive():
            raise Unexpected("more than the answer")
        client.socket.close()

    def backend_ends(self):
        client = self.connect()
        client.send(b"BYE 200000\n")
        self.expect(client, 200_000)
        if client.receive():
            raise Unexpected("more than the answer")
        client.send(content(50_000))
        client.close()

    def slow(self):
        client = self.connect(receive_buffer=8192)
        self.ask(client, 400_000, pause=0.02)
        client.close()

    def reset_down(self):
        client = self.connect()
        client.send(f"GET {PIECE * 2}\n".encode())
        for _ in range(random.randrange(1, 20)):
            client.receive()
        client.reset()

    def reset_up(self):
        client = self.connect()
        client.send(f"PUT {PIECE}\n".encode() + content(random.randrange(1, PIECE)))
        client.reset()

    def leave(self):
        """FIN in the middle, without close_notify."""
        client = self.connect()
        client.send(f"GET {PIECE}\n".encode())
        client.receive()
        client.socket.close()

    def backend_dies(self):
        client = self.connect()
        client.send(b"DIE 100000\n")
        try:
            while client.receive():
                pass
        except (Truncated, ConnectionResetError):
            client.socket.close()
            return
        raise Unexpected("a stream that was cut looks complete")

    def mortal(self):
        """The backend behind this name is killed now and then: all, or an end that is seen to be none."""
        try:
            client = self.connect("mortal")
            self.ask(client, PIECE)
            client.close()
        except (Truncated, ConnectionResetError, BrokenPipeError, Unexpected, ssl.SSLError) as error:
            return f"cut ({type(error).__name__})"

    def nobody(self):
        """Nobody listens at this name's backend."""
        client = self.connect("nobody")
        client.send(f"GET / HTTP/1.1\r\nHost: nobody.{DOMAIN}\r\n\r\n".encode())
        if not (answer := client.receive()).startswith(b"HTTP/1.1 502"):
            raise Unexpected(f"{answer[:80]!r}")
        client.close()

    def unknown(self):
        try:
            client = self.connect(f"x{random.randrange(1 << 30)}")
        except ssl.SSLError as error:
            if "ALERT" not in str(error):
                raise
            return
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        if not (answer := client.receive()).startswith(b"HTTP/1.1 404"):
            raise Unexpected(f"{answer[:80]!r}")
        client.close()

    def distrust(self):
        """A client that does not take the certificate."""
        try:
            self.connect(context=self.strangers)
        except ssl.SSLCertVerificationError:
            return
        raise Unexpected("a certificate from nobody was taken")

    def garbage(self):
        hello = bytes.fromhex("160301020001000200") + random.randbytes(300)
        kinds = [random.randbytes(400), b"GET / HTTP/1.1\r\n\r\n", hello, hello[:7], b"", b"\x16\x03\x01\xff\xff" + bytes(90)]
        kind = random.randrange(len(kinds))
        with self.raw() as raw:
            raw.sendall(kinds[kind])
            if random.random() < 0.5:
                raw.shutdown(socket.SHUT_WR)
            else:
                raw.settimeout(random.uniform(0.2, 2))
            try:
                while raw.recv(65536):
                    pass
            except (ConnectionResetError, TimeoutError):
                pass

    def redirect(self):
        with self.raw(self.plain) as raw:
            raw.sendall(f"GET /a?b HTTP/1.1\r\nHost: n1.{DOMAIN}\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while data := raw.recv(65536):
                answer += data
        if b" 30" not in answer[:13] or f"https://n1.{DOMAIN}/a?b".encode() not in answer:
            raise Unexpected(f"{answer[:200]!r}")

    def bad_request(self):
        with self.raw(self.plain) as raw:
            raw.sendall(random.choice([b"\r\n\r\n\0\0", b"GET / HTTP/1.1\r\n\r\n", random.randbytes(200) + b"\r\n\r\n"]))
            raw.shutdown(socket.SHUT_WR)
            try:
                while raw.recv(65536):
                    pass
            except ConnectionResetError:
                pass
