"""HTTP: requests that two may read differently, and what else carries data out."""

import contextlib
import struct

from attack import EVIL

END = "Connection: close\r\n\r\n"


def http_01(guest):
    for host in ("bad.test", "evil.test", "good.test:8443", "bad.test@good.test", "good.test.evil.test", ""):
        for is_tls in (True, False):
            request = f"GET / HTTP/1.1\r\nHost: {host}\r\n{END}".encode()
            answer = guest.talk("good.test", request, port=443 if is_tls else 80, is_tls=is_tls)
            guest.denied(guest.parse(answer), "authority_mismatch", status=421)


def http_02(guest):
    for hosts in (("good.test", "bad.test"), ("bad.test", "good.test"), ("good.test", "good.test")):
        lines = "".join(f"Host: {host}\r\n" for host in hosts)
        answer = guest.talk("good.test", f"GET / HTTP/1.1\r\n{lines}{END}".encode())
        guest.denied(guest.parse(answer), "duplicate_host", status=400)


def http_03(guest):
    for target in ("https://bad.test/", "http://good.test/", "https://good.test:444/", "https://good.test@bad.test/"):
        answer = guest.talk("good.test", f"GET {target} HTTP/1.1\r\nHost: good.test\r\n{END}".encode())
        guest.check(guest.parse(answer)[0] in (400, 421), f"{target}: {answer[:80]}")
    answer = guest.talk("good.test", f"GET https://good.test/x HTTP/1.1\r\nHost: good.test\r\n{END}".encode())
    guest.check(guest.parse(answer)[0] == 200, f"the same: {answer[:80]}")


class Http2:
    """As much of HTTP/2 as a lie needs: heads of literals, no table."""

    def __init__(self, guest, name="good.test"):
        self.guest = guest
        self.connection = guest.tls(guest.connect(guest.address(name), 443), name, alpn=("h2",))
        self.connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self.frame(4, 0, 0, b""))
        # The connection itself is no attempt; each request is.
        guest.count(-1)

    @staticmethod
    def frame(kind, flags, stream, payload):
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack("!I", stream) + payload

    def ask(self, stream, fields):
        block = b"".join(
            b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in fields
        )
        self.guest.count()
        self.connection.sendall(self.frame(1, 5, stream, block))

    def answer(self, stream):
        """The body of a stream's answer, or how the stream ended."""
        body, buffer = b"", b""
        while True:
            while len(buffer) < 9 or len(buffer) < 9 + int.from_bytes(buffer[:3], "big"):
                try:
                    piece = self.connection.recv(65536)
                except OSError as error:
                    return type(error).__name__
                if not piece:
                    return "closed"
                buffer += self.guest.keep(piece)
            length, kind, flags = int.from_bytes(buffer[:3], "big"), buffer[3], buffer[4]
            number, payload = struct.unpack("!I", buffer[5:9])[0], buffer[9 : 9 + length]
            buffer = buffer[9 + length :]
            if kind == 4 and not flags & 1:
                self.connection.sendall(self.frame(4, 1, 0, b""))
            if kind == 7:
                return "goaway"
            if number == stream and kind == 3:
                return "reset"
            if number == stream and kind == 0:
                body += payload
            if number == stream and kind in (0, 1) and flags & 1:
                return body


def fields(authority=None, *more):
    given = [(":method", "GET"), (":scheme", "https"), (":path", "/")]
    return given + [(":authority", authority)] * (authority is not None) + list(more)


def http_05(guest):
    for authority, host in (("good.test", "bad.test"), ("good.test", "evil.test"), ("bad.test", "good.test"), (None, "bad.test")):
        http2 = Http2(guest)
        http2.ask(1, fields(authority, ("host", host)))
        answer = http2.answer(1)
        refused = answer == "reset" or b"authority_mismatch" in answer or b"missing_host" in answer
        guest.check(refused, f"{authority} {host}: {answer[:200]}")
    http2 = Http2(guest)
    http2.ask(1, fields("good.test"))
    answer = http2.answer(1)
    guest.check(b'"host", "good.test"' in answer.lower() if isinstance(answer, bytes) else False, f"{answer[:200]}")


def http_06(guest):
    http2 = Http2(guest)
    for number, name in enumerate(("bad.test", "origin.test", "evil.test")):
        http2.ask(2 * number + 1, fields(name))
        answer = http2.answer(2 * number + 1)
        guest.check(isinstance(answer, bytes) and b"authority_mismatch" in answer, f"{name}: {answer[:200]}")
    http2.ask(7, fields("good.test"))
    guest.check(b'"GET"' in http2.answer(7), "the right name is refused too")


HIDDEN = "GET /smuggled HTTP/1.1\r\nHost: good.test\r\n\r\n"


def http_07(guest):
    body = f"0\r\n\r\n{HIDDEN}"
    for lengths in (f"Content-Length: {len(body)}\r\nTransfer-Encoding: chunked\r\n", f"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"):
        read = guest.talk("good.test", f"POST /outer HTTP/1.1\r\nHost: good.test\r\n{lengths}{END}{body}".encode())
        guest.check(read.count(b"HTTP/1.1 ") == 1, f"{read.count(b'HTTP/1.1 ')} answers")
        guest.check(b"smuggled" not in read, "the hidden request was answered")
        code = guest.parse(read)[0]
        guest.check(code == 400 and b"two_lengths" in read, f"{code}")


def http_09(guest):
    for coding in ("gzip, chunked", "xchunked", "chunked, identity", "identity", " \tchunked\x0b", "chunked\r\nTransfer-Encoding: chunked"):
        request = f"POST / HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: {coding}\r\n{END}0\r\n\r\n"
        code = guest.parse(guest.talk("good.test", request.encode("latin-1")))[0]
        guest.check(code == 400, f"{coding!r}: {code}")


def http_15(guest):
    for target in ("good.test:443", "bad.test:443", f"{EVIL}:443"):
        answer = guest.talk("good.test", f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{END}".encode())
        guest.denied(guest.parse(answer), "connect_refused", status=405)


def http_16(guest):
    """In a sandbox whose rule for good.test allows GET below /pub alone."""
    for path in (
        "/pub/../admin", "/pub/%2e%2e/admin", "/pub/..%2fadmin", "/pub//../../admin", "/pub/.%2e/admin", "/pub/%252e%252e/admin",
        "/pub/..;/admin", "/pub\\..\\admin", "/pub/%5c..%5cadmin", "/admin", "//admin", "/pub/../../pub/../admin", "/PUB/x/../../admin",
    ):
        code, body, _head = guest.get("good.test", path)
        guest.check(code in (400, 403), f"{path}: {code} {body[:100]}")
    for path, sent in (("/pub/a/../b", b'"/pub/b"'), ("/pub/./b", b'"/pub/b"')):
        code, body, _head = guest.get("good.test", path)
        guest.check(code == 200 and sent in body, f"{path}: {code} {body[:200]}")


def http_17(guest):
    """In the same sandbox as HTTP-16: reading alone is allowed."""
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        guest.denied(guest.get("good.test", "/pub/a", headers={name: "DELETE"}))
    for path in ("/pub/a?_method=DELETE", "/pub/a?_METHOD=put"):
        guest.denied(guest.get("good.test", path))
    for method in ("POST", "DELETE", "get", "GETX", "PROPFIND"):
        guest.check(guest.get("good.test", "/pub/a", method=method)[0] in (400, 403), f"{method} passes")
    code, _body, _head = guest.get("good.test", "/pub/a", body=b"data that leaves with a GET")
    guest.facts = {"get with a body": code}
    guest.check(guest.get("good.test", "/pub/a")[0] == 200, "reading does not work")


def http_19(guest):
    code, _body, head = guest.get("origin.test", f"/redirect?to=http://{EVIL}/?t=", headers={"Authorization": f"Bearer {guest.key}"})
    where = next((line[10:] for line in head.split("\r\n") if line.lower().startswith("location: ")), "")
    guest.check(code == 302 and guest.key in where, f"{code} {head}")
    path = "/" + where.partition("/?")[2].join(["?", ""])
    guest.denied(guest.get(None, path.replace(" ", "%20"), port=80, is_tls=False, address=EVIL))
    guest.refused_name("evil.test")


def http_21(guest):
    """In a sandbox that requires its own credential at origin.test."""
    for headers in ({}, {"Authorization": "Bearer attacker"}, {"X-Api-Key": "attacker"},
                    {"Authorization": f"Bearer {guest.key}", "X-Api-Key": "attacker"}):
        guest.denied(guest.get("origin.test", "/files", method="POST", headers=headers, body=b"data of the victim"))
    guest.denied(guest.get("origin.test", "/files?api_key=attacker", headers={"Authorization": f"Bearer {guest.key}"}))
    code, _body, _head = guest.get("origin.test", "/files", headers={"Authorization": f"Bearer {guest.key}"})
    guest.check(code == 200, f"the own one: {code}")


def http_22(guest):
    """In a sandbox whose rule allows one account of origin.test."""
    guest.check(guest.get("origin.test", "/ours/x")[0] == 200, "the own account is closed")
    for path in ("/theirs/x", "/ours/../theirs/x", "/"):
        guest.denied(guest.get("origin.test", path, method="PUT", body=b"data of the victim"))


def http_23(guest):
    for path, codes in (
        ("/two-lengths", (502,)), ("/both", (200, 502)), ("/no-content", (204, 502)), ("/not-modified", (304, 502)),
        ("/split", (502,)), ("/endless", (200, 502)), ("/upgrade", (502,)), ("/nothing", (502,)),
    ):
        request = f"GET {path} HTTP/1.1\r\nHost: good.test\r\n{END}".encode()
        read = guest.talk("good.test", request)
        code = guest.parse(read)[0]
        guest.check(code in codes, f"{path}: {code} {read[:200]}")
        guest.check(b"smuggled" not in read and b"Set-Cookie" not in read, f"{path}: {read[:300]}")
        guest.check(read.count(b"HTTP/1.1 ") == 1, f"{path}: {read.count(b'HTTP/1.1 ')} answers")
    # Cut short: the client can tell, since what was promised does not come.
    for path in ("/short", "/chunks"):
        read = guest.talk("good.test", f"GET {path} HTTP/1.1\r\nHost: good.test\r\n{END}".encode())
        whole = guest.parse(read)[0] == 200 and (b"content-length: 5\r\n" in read.lower() or read.endswith(b"0\r\n\r\n"))
        guest.check(not whole, f"{path} looks whole: {read[:200]}")
    # A head alone is asked for, and nothing else is taken for a second answer.
    code, body, head = guest.get("good.test", "/works", method="HEAD")
    guest.check(code == 200 and body == b"", f"{code} {body} {head}")


def http_27(guest):
    """Told a word to be told apart by: one request on a connection that is kept."""
    with contextlib.closing(guest.tls(guest.connect(guest.address("good.test"), 443), "good.test")) as secure:
        secure.sendall(f"GET /{guest.words[0]} HTTP/1.1\r\nHost: good.test\r\n\r\n".encode())
        guest.check(b"200 OK" in guest.keep(secure.recv(65536)), "no answer")
