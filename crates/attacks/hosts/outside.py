"""The hosts of the network under attack, each in a namespace of its own.

    outside.py ROLE DIRECTORY

Says one JSON object a line of whatever reaches it; is told things the same way
and answers each with {"heard": true}. Ends with its input. Roles: origin and cdn
serve HTTP, TLS and raw bytes; names is a name server; evil counts packets; trap
listens on the server's own machine.
"""

import base64
import gzip
import json
import os
import socket
import ssl
import struct
import sys
import threading
import time

ROLE, DIRECTORY = sys.argv[1:3]
OUTPUT = threading.Lock()
STORED = {}


def say(**line):
    with OUTPUT:
        print(json.dumps(line), flush=True)


def serve(port, handle, tls=None, host="0.0.0.0"):
    """Serves each connection on a thread, after a TLS handshake if there is one."""
    listener = socket.create_server((host, port), backlog=256)

    def one(connection, peer):
        facts = {"port": port, "peer": peer[0], "peer_port": peer[1], "sni": None, "alpn": None}
        say(connected=port, peer=peer[0])
        try:
            connection.settimeout(30)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls:
                connection = tls.wrap_socket(connection, server_side=True)
                facts["sni"] = getattr(connection, "asked", None)
                facts["alpn"] = connection.selected_alpn_protocol()
            handle(connection, facts)
        except (OSError, ValueError) as error:
            say(failed=str(error), port=port)
        finally:
            connection.close()

    def accept():
        while True:
            connection, peer = listener.accept()
            threading.Thread(target=one, args=(connection, peer), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def tls_of(default, names):
    """A context for a default name and others, by what clients ask for."""

    def context(name):
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(os.path.join(DIRECTORY, name + ".pem"))
        made.set_alpn_protocols(["http/1.1"])
        return made

    contexts = {name: context(name) for name in names}

    def choose(connection, name, _default):
        connection.asked = name
        connection.context = contexts.get(name, contexts[default])

    contexts[default].sni_callback = choose
    return contexts[default]


def read_request(stream):
    """One request: its raw head, method, target, headers, body; None at the end."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = stream.read(1)
        if not byte:
            if head:
                say(partial=base64.b64encode(head).decode())
            return None
        head += byte
    lines = head.decode("latin-1").split("\r\n")
    method, target, _version = lines[0].split(" ", 2)
    headers = [tuple(part.strip() for part in line.split(":", 1)) for line in lines[1:] if line]
    low = {name.lower(): value for name, value in headers}
    body = b""
    if low.get("transfer-encoding") == "chunked":
        while True:
            length = int(stream.readline().split(b";")[0], 16)
            body += stream.read(length)
            stream.readline()
            if not length:
                break
    elif "content-length" in low:
        body = stream.read(int(low["content-length"]))
    return head, method, target, headers, body


def http(connection, facts):
    stream = connection.makefile("rb")
    while True:
        request = read_request(stream)
        if request is None:
            return
        head, method, target, headers, body = request
        low = {name.lower(): value for name, value in headers}
        raw = base64.b64encode(head + body).decode()
        say(request=f"{method} {target}", host=low.get("host"), raw=raw, **facts)
        if target in MALFORMED:
            connection.sendall(MALFORMED[target])
            return
        status, more, answer = respond(method, target, headers, body)
        lines = [f"HTTP/1.1 {status}"] + [f"{name}: {value}" for name, value in more]
        lines.append(f"Content-Length: {len(answer)}")
        if method == "HEAD":
            answer = b""
        connection.sendall("\r\n".join(lines + ["", ""]).encode("latin-1") + answer)
        if low.get("connection") == "close":
            return


# Answers that are framed in ways that two may read differently.
MALFORMED = {
    "/two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
    "/both": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "/no-content": b"HTTP/1.1 204 No Content\r\nContent-Length: 8\r\n\r\nsmuggled",
    "/not-modified": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 8\r\n\r\nsmuggled",
    "/split": b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b=c\r\nContent-Length: 2\r\n\r\nok",
    "/endless": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 500 + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "/upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\nsmuggled",
    "/short": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
    "/chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nshort",
    "/nothing": b"\0\1\2\3\r\n\r\n",
}


def respond(method, target, headers, body):
    path = target.split("?")[0]
    low = {name.lower(): value for name, value in headers}
    echo = {"method": method, "target": target, "headers": headers, "body": body.decode("latin-1")}
    text = json.dumps(echo).encode()
    kind = [("Content-Type", "application/json")]
    if path == "/redirect":
        where = target.partition("?to=")[2] + low.get("authorization", "")
        return "302 Found", [("Location", where)], b""
    if path == "/gzip":
        return "200 OK", kind + [("Content-Encoding", "gzip")], gzip.compress(text)
    if path == "/lies":
        return "200 OK", kind + [("Content-Encoding", "br")], text
    if path == "/headers":
        more = [("X-Echo", low.get("authorization", "")), ("Set-Cookie", "a=" + low.get("authorization", ""))]
        return "200 OK", kind + more, b"{}"
    if path == "/forms":
        value = low.get("authorization", "").encode()
        forms = {
            "base64": [base64.b64encode(b"x" * n + value).decode() for n in range(3)],
            "url64": base64.urlsafe_b64encode(value).decode(),
            "hex": value.hex(),
            "upper": value.hex().upper(),
            "json": "".join(f"\\u{byte:04x}" for byte in value),
            "html": "".join(f"&#{byte};" for byte in value),
            "url": "".join(f"%{byte:02X}" for byte in value),
        }
        return "200 OK", kind, json.dumps(forms).encode() + value.decode("latin-1").encode("utf-16-le")
    if path == "/store":
        STORED[target.partition("?")[2]] = body or low.get("authorization", "").encode()
        return "200 OK", kind, b"{}"
    if path == "/read":
        return "200 OK", kind, STORED.get(target.partition("?")[2], b"")
    if path == "/error":
        return "500 Oh " + low.get("authorization", ""), kind, text
    return "200 OK", kind, text


def raw(connection, facts):
    """Records bytes and sends them back."""
    while True:
        read = connection.recv(65536)
        if not read:
            return
        say(bytes=base64.b64encode(read).decode(), **facts)
        connection.sendall(read)


def records(zone, name, kind):
    """The answers of a name server for a name: addresses of a kind, or an alias."""
    entry = zone.get(name, {"A": []})
    return entry.get({1: "A", 28: "AAAA"}.get(kind, ""), []), entry.get("CNAME")


def name_server(zone):
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("0.0.0.0", 53))

    def labels(name):
        return b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0"

    def answer(question):
        at, parts = 12, []
        while question[at]:
            parts.append(question[at + 1 : at + 1 + question[at]].decode("latin-1"))
            at += 1 + question[at]
        name, kind = ".".join(parts).lower(), struct.unpack("!H", question[at + 1 : at + 3])[0]
        say(query=name, kind=kind)
        addresses, alias = records(zone, name, kind)
        found = b""
        count = 0
        if alias:
            target = labels(alias)
            found += b"\xc0\x0c" + struct.pack("!HHIH", 5, 1, 0, len(target)) + target
            count = 1
            addresses = records(zone, alias, kind)[0]
            owner = target
        else:
            owner = b"\xc0\x0c"
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            data = socket.inet_pton(family, address)
            found += owner + struct.pack("!HHIH", kind, 1, 0, len(data)) + data
            count += 1
        code = 0 if name in zone else 3
        head = question[:2] + struct.pack("!HHHHH", 0x8580 | code, 1, count, 0, 0)
        return head + question[12 : at + 5] + found

    def run():
        while True:
            question, peer = listener.recvfrom(4096)
            try:
                listener.sendto(answer(question), peer)
            except (IndexError, OSError) as error:
                say(failed=str(error))

    threading.Thread(target=run, daemon=True).start()


def count_packets():
    """Says every packet that arrives, but what neighbours say to each other."""
    everything = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
    everything.bind(("eth0", 0))

    def run():
        while True:
            frame, (_, kind, direction, *_rest) = everything.recvfrom(65536)
            packet = frame[14:]
            if direction == 4 or kind == 0x0806:
                continue
            if kind == 0x86DD and packet[6] in (0, 58) and packet[24] == 0xFF:
                continue
            if kind == 0x86DD and packet[6] == 58 and packet[40] in range(130, 138):
                continue
            is_fence = kind == 0x0800 and packet[9] == 17 and packet[22:24] == b"\x00\x09"
            if is_fence and packet[16:20] == bytes([20, 0, 4, 2]):
                say(fence=packet[28:].decode("latin-1"))
            else:
                say(packet=packet[:80].hex(), kind=hex(kind))

    threading.Thread(target=run, daemon=True).start()


def main():
    zone = {}
    names = ["origin.test", "named.test", "rebind.test", "mixed.test", "untrusted.test", "wrong.test", "expired.test"]
    if ROLE == "origin":
        tls = tls_of("origin.test", names)
        for port in (443, 8443):
            serve(port, http, tls)
        serve(80, http)
        serve(5432, raw)
    elif ROLE == "cdn":
        tls = tls_of("bad.test", ["bad.test", "good.test"])
        for port in (443, 8080):
            serve(port, http, tls)
        serve(80, http)
        serve(2222, raw)
    elif ROLE == "names":
        name_server(zone)
    elif ROLE == "evil":
        count_packets()
        serve(443, raw)
    else:
        for port in (22, 80, 2375, 8000):
            serve(port, raw)
    say(ready=True)
    for line in sys.stdin:
        told = json.loads(line)
        zone.clear()
        zone.update(told)
        say(heard=True)
    # Threads that wait for connections are no reason to stay.
    os._exit(0)


main()
