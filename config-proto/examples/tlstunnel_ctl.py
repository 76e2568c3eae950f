#!/usr/bin/env python3
"""A complete client of tlstunnel's control protocol v2 (PROTOCOL.md), with nothing but the standard library.

usage: tlstunnel_ctl.py HOST:PORT KEYFILE add NAME BACKEND... | remove NAME | list | certificates | status | raw JSON
exit:  0 done, 1 refused by the gateway, 2 usage, 3 cannot reach or broken connection, 4 not authenticated
"""
import base64
import hashlib
import hmac
import json
import os
import socket
import struct
import sys

MAGIC, VERSION, MAX_FRAME, OVERHEAD = b"tlsctl\r\n", 2, 1 << 20, 45
CLIENT_PROOF, REQUEST, SERVER_PROOF, REPLY = 0x01, 0x02, 0x81, 0x82
# The fields that are sealed: number, type of frame, path.
SEALED = ((0, REQUEST, ("key_pem",)), (1, REPLY, ("ok", "secret")))


class NotAuthenticated(Exception):
    pass


def hkdf(secret, salt, info):
    """HKDF-SHA256 (RFC 5869) for 32 bytes of output."""
    return hmac.digest(hmac.digest(salt, secret, "sha256"), info + b"\x01", "sha256")


def chacha20_block(key, counter, nonce):
    start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *struct.unpack("<8I", key), counter, *struct.unpack("<3I", nonce)]
    x = list(start)
    for _ in range(10):
        for a, b, c, d in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
                           (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
            for p, q, r, shift in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                x[p] = (x[p] + x[q]) & 0xFFFFFFFF
                x[r] ^= x[p]
                x[r] = (x[r] << shift | x[r] >> (32 - shift)) & 0xFFFFFFFF
    return struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(x, start)))


def chacha20(key, nonce, data):
    stream = b"".join(chacha20_block(key, 1 + i, nonce) for i in range((len(data) + 63) // 64))
    return bytes(a ^ b for a, b in zip(data, stream))


def poly1305(key, nonce, aad, cipher):
    block = chacha20_block(key, 0, nonce)
    r = int.from_bytes(block[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    pad = lambda data: data + bytes(-len(data) % 16)
    message, total = pad(aad) + pad(cipher) + struct.pack("<QQ", len(aad), len(cipher)), 0
    for i in range(0, len(message), 16):
        total = (total + int.from_bytes(message[i:i + 16] + b"\x01", "little")) * r % ((1 << 130) - 5)
    return ((total + int.from_bytes(block[16:32], "little")) % (1 << 128)).to_bytes(16, "little")


def each_sealed(message, kind, seq, change):
    """Replaces the secret fields of a message by change(value, nonce, associated data)."""
    for number, of_kind, path in SEALED:
        parent = message
        for step in path[:-1]:
            parent = parent.get(step) if isinstance(parent, dict) else None
        if kind == of_kind and isinstance(parent, dict) and path[-1] in parent:
            nonce, aad = struct.pack(">QI", seq, number), bytes([kind]) + ("/" + "/".join(path)).encode()
            parent[path[-1]] = change(parent[path[-1]], nonce, aad)
    return message


def seal(key, text, nonce, aad):
    cipher = chacha20(key, nonce, text.encode())
    return {"sealed": base64.b64encode(cipher + poly1305(key, nonce, aad, cipher)).decode()}


def unseal(key, value, nonce, aad):
    data = base64.b64decode(value["sealed"], validate=True)
    if not hmac.compare_digest(data[-16:], poly1305(key, nonce, aad, data[:-16])):
        raise NotAuthenticated("a sealed value does not open")
    return chacha20(key, nonce, data[:-16]).decode()


def client_hello(key_id, nonce):
    return MAGIC + bytes([VERSION, len(key_id)]) + key_id.encode() + nonce


def derive(secret, hello, server_hello):
    """The keys of a connection: client mac, client seal, server mac, server seal."""
    labels = ("client mac", "client seal", "server mac", "server seal")
    salt = hello[-32:] + server_hello[-32:]
    return {label: hkdf(secret, salt, b"tlsctl v2 " + label.encode() + b"\0" + hello + server_hello) for label in labels}


def frame(key, seq, kind, body=b""):
    data = struct.pack(">IQB", OVERHEAD - 4 + len(body), seq, kind) + body
    return data + hmac.digest(key, data, "sha256")


def read_key(path):
    with open(path, encoding="ascii") as file:
        line = next(text for text in map(str.strip, file) if text and not text.startswith("#"))
    key_id, _, secret = line.rpartition(":")
    return key_id or "admin", base64.b64decode(secret + "=" * (-len(secret) % 4), validate=True)


class Connection:
    def __init__(self, address, key_id, secret):
        host, _, port = address.rpartition(":")
        self.socket, self.seq = socket.create_connection((host.strip("[]"), int(port)), timeout=30), 0
        hello = client_hello(key_id, os.urandom(32))
        self.socket.sendall(hello)
        answer = self.read(41)
        if answer[:8] != MAGIC or answer[8] != VERSION:
            raise ConnectionError("the peer does not speak version 2 of the control protocol")
        self.keys = derive(secret, hello, answer)
        self.socket.sendall(frame(self.keys["client mac"], 0, CLIENT_PROOF))
        self.receive(0, SERVER_PROOF)

    def read(self, length):
        data = b""
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            if not piece:
                raise ConnectionError("the gateway closed the connection")
            data += piece
        return data

    def receive(self, seq, kind):
        head = self.read(4)
        length = int.from_bytes(head, "big")
        if not OVERHEAD <= length + 4 <= MAX_FRAME:
            raise ConnectionError("the gateway announced a frame of %d bytes" % length)
        data = head + self.read(length)
        tag = hmac.digest(self.keys["server mac"], data[:-32], "sha256")
        if not hmac.compare_digest(tag, data[-32:]) or struct.unpack(">QB", data[4:13]) != (seq, kind):
            raise NotAuthenticated("not authenticated: wrong key id or secret, or a frame changed on the way")
        return data[13:-32]

    def request(self, message):
        self.seq += 1
        message = each_sealed(message, REQUEST, self.seq, lambda *field: seal(self.keys["client seal"], *field))
        self.socket.sendall(frame(self.keys["client mac"], self.seq, REQUEST, json.dumps(message).encode()))
        reply = json.loads(self.receive(self.seq, REPLY))
        return each_sealed(reply, REPLY, self.seq, lambda *field: unseal(self.keys["server seal"], *field))


def requests(command, args):
    """The requests of a command; of a list, the next page as long as there is one."""
    if command == "add" and len(args) >= 2:
        yield {"op": "add", "name": args[0], "settings": {"backends": args[1:]}}
    elif command == "remove" and len(args) == 1:
        yield {"op": "remove", "name": args[0]}
    elif command == "list" and not args:
        page = yield {"op": "list"}
        while page["more"]:
            page = yield {"op": "list", "after": page["routes"][-1]["name"]}
    elif command == "certificates" and not args:
        page = yield {"op": "cert-list"}
        # A gateway of before there were pages sends all at once.
        while page.get("more"):
            last = page["certificates"][-1]
            page = yield {"op": "cert-list", "after": {"name": "".join(last["names"][:1]), "sha256": last["sha256"]}}
    elif command == "status" and not args:
        yield {"op": "status"}
    elif command == "raw" and len(args) == 1:
        yield json.loads(args[0])
    else:
        raise ValueError(__doc__)


def show(command, result):
    if command == "list":
        for route in result["routes"]:
            print(route["name"], *route["settings"].get("backends", []))
    elif command == "certificates":
        for certificate in result["certificates"]:
            print(certificate["sha256"], *certificate["names"])
    elif command in ("add", "remove"):
        print(result["message"])
    else:
        print(json.dumps(result, indent=2, sort_keys=True))


def main(args):
    try:
        address, key_file, command, *rest = args
        steps = requests(command, rest)
        message, key = next(steps), read_key(key_file)
    except (ValueError, OSError, StopIteration) as error:
        print(error if str(error) else "the key file is empty", file=sys.stderr)
        return 2
    try:
        connection = Connection(address, *key)
        while True:
            reply = connection.request(message)
            if "error" in reply:
                print("refused: " + reply["error"]["message"], file=sys.stderr)
                return 1
            show(command, reply["ok"])
            message = steps.send(reply["ok"])
    except StopIteration:
        return 0
    except NotAuthenticated as error:
        print(error, file=sys.stderr)
        return 4
    except (OSError, ValueError) as error:
        print("cannot reach %s: %s" % (address, error), file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
