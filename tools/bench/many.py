"""Many TLS connections from one loop: opened a bounded number at a time, kept, and asked at a fixed rate.

Each carries HTTP/1.1 requests for `/small`, whose answers end with [`ENDING`]. A loop is to be run in a process of its own, so
that those who wait do not delay those who ask ([`Loop`]).
"""

import heapq
import multiprocessing
import random
import select
import socket
import ssl
import struct
import time

from tls_client import Machine

ENDING = b"x" * 64
HANDSHAKE, ASKING, IDLE = range(3)
# Seconds after which one whose turn has come and who still waits is looked at again.
RETRY = 0.0005


class Connection:
    __slots__ = ("socket", "machine", "state", "answer", "asked")

    def __init__(self, sock, machine):
        self.socket, self.machine, self.state, self.answer, self.asked = sock, machine, HANDSHAKE, b"", 0.0


class Many:
    def __init__(self, address, name, sources, certificate):
        self.address, self.name, self.sources = address, name, sources
        self.context = ssl.create_default_context(cafile=certificate)
        self.request = f"GET /small HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()
        self.epoll, self.connections, self.failures = select.epoll(), {}, []

    def open(self, count, parallel):
        """Opens so many, each with one answered request; how many seconds that took."""
        begin, started, busy = time.monotonic(), 0, 0
        while started < count or busy:
            while started < count and busy < parallel:
                self.begin(self.sources[started % len(self.sources)])
                started, busy = started + 1, busy + 1
            busy -= self.turn(10)
            if time.monotonic() - begin > 300:
                self.failures.append(f"{busy} connections stand still while they open")
                break
        return time.monotonic() - begin

    def begin(self, source):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((source, 0))
        try:
            sock.connect(self.address)
        except BlockingIOError:
            pass
        self.connections[sock.fileno()] = Connection(sock, Machine(self.context, self.name))
        self.epoll.register(sock, select.EPOLLOUT)

    def ask(self, connection):
        connection.state, connection.answer, connection.asked = ASKING, b"", time.perf_counter()
        connection.socket.sendall(connection.machine.encrypt(self.request))

    def turn(self, wait, times=None):
        """Takes what has come; how many connections became idle or ended."""
        done = 0
        for number, events in self.epoll.poll(wait):
            connection = self.connections[number]
            try:
                done += self.event(connection, events, times)
            except (OSError, ssl.SSLError, EOFError) as error:
                self.failures.append(repr(error))
                self.drop(number)
                done += 1
        return done

    def event(self, connection, events, times):
        received = b""
        if events & select.EPOLLOUT:
            self.epoll.modify(connection.socket, select.EPOLLIN)
        else:
            received = connection.socket.recv(65536)
            if not received:
                raise EOFError("the gateway has ended a connection")
        if connection.state == HANDSHAKE:
            done = connection.machine.handshake(received)
            if pending := connection.machine.outgoing.read():
                connection.socket.sendall(pending)
            if done:
                self.ask(connection)
            return 0
        connection.answer += connection.machine.decrypt(received)
        if connection.machine.ended:
            raise EOFError("the gateway has ended a connection")
        if connection.state != ASKING or not connection.answer.endswith(ENDING):
            return 0
        if times is not None:
            times.append(time.perf_counter() - connection.asked)
        connection.state = IDLE
        return 1

    def drop(self, number):
        connection = self.connections.pop(number)
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.socket.close()

    def ask_at_rate(self, rate, seconds):
        """Every connection asks in its turn, at moments that do not depend on answers; the seconds until each answer. Who
        still waits for one when its turn comes asks right after it, and the time counts from its turn."""
        connections = list(self.connections.values())
        random.shuffle(connections)
        every, begin, times = len(connections) / rate, time.perf_counter(), []
        turns = [(begin + place / rate,) * 2 + (place,) for place in range(len(connections))]
        heapq.heapify(turns)
        while turns and turns[0][1] < begin + seconds:
            at, turn, place = turns[0]
            if (now := time.perf_counter()) < at:
                self.turn(at - now, times)
                continue
            connection = connections[place]
            if connection.socket.fileno() < 0:
                heapq.heappop(turns)
            elif connection.state == ASKING:
                heapq.heapreplace(turns, (now + RETRY, turn, place))
            else:
                self.ask(connection)
                if at > turn:
                    connection.asked = turn
                heapq.heapreplace(turns, (turn + every,) * 2 + (place,))
        end = time.perf_counter() + 10
        while any(c.state == ASKING and c.socket.fileno() >= 0 for c in connections) and time.perf_counter() < end:
            self.turn(0.1, times)
        return times

    def look(self):
        """How many stand, after what has come was taken."""
        while self.turn(0):
            pass
        return len(self.connections)

    def close(self):
        for connection in self.connections.values():
            self.epoll.unregister(connection.socket)
            try:
                connection.socket.sendall(connection.machine.close_notify())
            except OSError:
                pass
            connection.socket.close()
        self.connections.clear()


class Loop:
    """A [`Many`] in a process of its own; its methods are called from here."""

    def __init__(self, *arguments):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, arguments), daemon=True)
        self.process.start()

    def __getattr__(self, method):
        def call(*arguments):
            self.pipe.send((method, arguments))
            result, failures = self.pipe.recv()
            if failures:
                raise ConnectionError(f"{len(failures)} failures, first {failures[:3]}")
            return result
        return call

    def stop(self):
        self.process.kill()
        self.process.join()


def serve(pipe, arguments):
    many = Many(*arguments)
    while True:
        try:
            method, values = pipe.recv()
        except EOFError:
            return
        result = getattr(many, method)(*values)
        pipe.send((result, many.failures))
        many.failures = []
