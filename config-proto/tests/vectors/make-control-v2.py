#!/usr/bin/env python3
"""Writes control-v2.json with the Python client's code, which shares nothing with the Rust code that it tests.

usage: python3 tests/vectors/make-control-v2.py > tests/vectors/control-v2.json   (in config-proto/)
"""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "examples"))
sys.dont_write_bytecode = True
import tlstunnel_ctl as ctl

KEY_ID, SECRET = "ops", bytes(range(32))
CLIENT_NONCE, SERVER_NONCE = b"\xc1" * 32, b"\x5e" * 32

hello = ctl.client_hello(KEY_ID, CLIENT_NONCE)
server_hello = ctl.MAGIC + bytes([ctl.VERSION]) + SERVER_NONCE
keys = ctl.derive(SECRET, hello, server_hello)


def exchange(direction, seq, kind, plain):
    """A frame with its plain message; secrets in it are sealed."""
    sealed = ctl.each_sealed(json.loads(json.dumps(plain)), kind, seq,
                             lambda *field: ctl.seal(keys[direction + " seal"], *field))
    body = json.dumps(sealed, separators=(",", ":"), sort_keys=True)
    return {"sequence": seq, "type": kind, "message": plain, "body": body,
            "frame": ctl.frame(keys[direction + " mac"], seq, kind, body.encode()).hex()}


def malformed(why, body):
    """A first request whose tag holds and whose body is none."""
    return {"why": why, "frame": ctl.frame(keys["client mac"], 1, ctl.REQUEST, body).hex()}


def cert_set(key_pem):
    return json.dumps({"op": "cert-set", "chain_pem": "", "key_pem": key_pem}).encode()


def sealed_at(seq, number, associated):
    return ctl.seal(keys["client seal"], "the key", ctl.struct.pack(">QI", seq, number), associated)


print(json.dumps({
    "note": "PROTOCOL.md is the specification. Written by make-control-v2.py. Hexadecimal, except message and body. "
            "message is what is meant, body is its JSON with sealed fields, frame is the whole frame.",
    "key_id": KEY_ID,
    "secret": SECRET.hex(),
    "client_nonce": CLIENT_NONCE.hex(),
    "server_nonce": SERVER_NONCE.hex(),
    "client_hello": hello.hex(),
    "server_hello": server_hello.hex(),
    "keys": {label: key.hex() for label, key in keys.items()},
    "client_proof": ctl.frame(keys["client mac"], 0, ctl.CLIENT_PROOF).hex(),
    "server_proof": ctl.frame(keys["server mac"], 0, ctl.SERVER_PROOF).hex(),
    "unauthenticated": "00000029" + "00" * 8 + "ff" + "00" * 32,
    "requests": [
        exchange("client", 1, ctl.REQUEST, {"op": "status"}),
        exchange("client", 2, ctl.REQUEST, {"op": "add", "name": "blog", "settings": {"backends": ["10.0.0.7:80"]}}),
        exchange("client", 3, ctl.REQUEST, {"op": "cert-set", "chain_pem": "the chain", "key_pem": "the key"}),
        exchange("client", 4, ctl.REQUEST, {"op": "key-add", "id": "team", "role": "names:*.team.example.org"}),
        exchange("client", 5, ctl.REQUEST, {"op": "cert-list"}),
        exchange("client", 6, ctl.REQUEST, {"op": "cert-list", "after": {"name": "a.example.org", "sha256": "ab" * 32}, "limit": 10}),
    ],
    "replies": [
        exchange("server", 1, ctl.REPLY, {"error": {"code": "forbidden", "message": "this key may not do that"}}),
        exchange("server", 2, ctl.REPLY, {"ok": {"generation": 2, "message": "blog.example.org was added", "name": "blog.example.org"}}),
        exchange("server", 3, ctl.REPLY, {"ok": {"generation": 3, "message": "the certificate was set"}}),
        exchange("server", 4, ctl.REPLY, {"ok": {"generation": 4, "id": "team", "secret": "AAECAwQFBgcICQoLDA0ODw=="}}),
        exchange("server", 5, ctl.REPLY, {"ok": {"certificates": [], "more": False}}),
        exchange("server", 6, ctl.REPLY, {"ok": {"certificates": [], "more": False}}),
    ],
    "malformed_requests": [
        malformed("not JSON", b"{"),
        malformed("not UTF-8", b'{"op":"\xff"}'),
        malformed("no operation", b"{}"),
        malformed("unknown operation", b'{"op":"dance"}'),
        malformed("unknown field", b'{"op":"remove","name":"a","force":true}'),
        malformed("unknown field of an operation without fields", b'{"op":"status","force":true}'),
        malformed("unknown field of a cursor", b'{"op":"cert-list","after":{"name":"a","sha256":"b","force":true}}'),
        malformed("secret not sealed", cert_set("the key")),
        malformed("sealed object with another field", cert_set({**sealed_at(1, 0, b"\x02/key_pem"), "x": 1})),
        malformed("sealed for another frame", cert_set(sealed_at(2, 0, b"\x02/key_pem"))),
        malformed("sealed for another field", cert_set(sealed_at(1, 1, b"\x02/key_pem"))),
        malformed("sealed for another type of frame", cert_set(sealed_at(1, 0, b"\x82/key_pem"))),
        malformed("sealed and not base64", cert_set({"sealed": "*"})),
        malformed("sealed and too short for a tag", cert_set({"sealed": "AAAA"})),
    ],
}, indent=1))
