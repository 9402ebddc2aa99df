"""Runs one attack from inside a sandbox, as root: attack.py ID [WORDS].

An attack is a function named after its id (`net_01`) in one of the modules beside
this one. It is given a `Guest`, which does what attacks do, keeps every byte that
came in, counts the attempts of which the proxy must have a record, and what was
not as it should be. The last line of the output is all of that, as JSON.
"""

import base64
import contextlib
import importlib
import json
import os
import re
import socket
import ssl
import struct
import sys
import threading
import time
import traceback

GATEWAY = "100.64.0.1"
# What every refused name is: there web clients are told why, and nothing goes on.
REFUSAL = "198.18.0.1"
REFUSAL6 = "fd54:6f6d:626f:1::1"
# An address that nothing stands for, behind the way to everywhere.
EVIL = "9.9.9.9"
EVIL6 = "2606:4700:4700::1111"
ORIGIN = "20.0.1.2"
CDN = "20.0.2.2"
# The one authority that signs what a sandbox sees; the whole bundle takes long to read.
AUTHORITY = "/usr/local/share/ca-certificates/tombolo.crt"
# Seconds between the requests of somebody who attacks nobody.
NEIGHBOUR_PAUSE = 0.1
A, AAAA = 1, 28
NXDOMAIN, NOERROR, SERVFAIL, REFUSED, NOTIMP, FORMERR = 3, 0, 2, 5, 4, 1


class Guest:
    def __init__(self):
        self.words = sys.argv[2:]
        self.key = os.environ.get("KEY", "")
        self.failures, self.received = [], bytearray()
        self.attempts, self.facts = 0, {}
        self.lock = threading.Lock()
        self.known = {}

    def check(self, is_so, what):
        if not is_so:
            self.failures.append(str(what))

    def count(self, number=1):
        with self.lock:
            self.attempts += number

    def keep(self, read):
        with self.lock:
            self.received += read
        return read

    def together(self, act, items):
        """Does the same with many things at once."""
        threads = []
        for item in items:

            def one(item=item):
                try:
                    act(item)
                except Exception as error:
                    self.check(False, f"{item}: {error!r}")

            threads.append(threading.Thread(target=one))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    # Names

    def question(self, name, kind=A, number=None, klass=1, flags=0x0100, more=b"", counts=(1, 0, 0, 0)):
        number = struct.unpack("!H", os.urandom(2))[0] if number is None else number
        labels = name if isinstance(name, bytes) else b"".join(
            bytes([len(label)]) + label.encode() for label in name.rstrip(".").split(".") if label
        ) + b"\0"
        return struct.pack("!HHHHHH", number, flags, *counts) + labels + struct.pack("!HH", kind, klass) + more

    def ask_bytes(self, question, server=GATEWAY, tcp=False, patience=5):
        """Sends one question, answers the bytes that come back or None."""
        self.count()
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        if tcp:
            with socket.socket(family, socket.SOCK_STREAM) as connection:
                connection.settimeout(patience)
                connection.connect((server, 53))
                connection.sendall(struct.pack("!H", len(question)) + question)
                stream = connection.makefile("rb")
                length = struct.unpack("!H", stream.read(2))[0]
                return self.keep(stream.read(length))
        with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
            datagrams.settimeout(patience)
            datagrams.connect((server, 53))
            datagrams.send(question)
            try:
                return self.keep(datagrams.recv(65536))
            except TimeoutError:
                return None

    def ask(self, name, kind=A, **more):
        """The code and the addresses that a name server gives for a name."""
        how = {key: more.pop(key) for key in ("server", "tcp") if key in more}
        answer = self.ask_bytes(self.question(name, kind, **more), **how)
        return self.understand(answer)

    @staticmethod
    def understand(answer):
        if answer is None:
            return None, []
        code, count = answer[3] & 15, struct.unpack("!H", answer[6:8])[0]
        at = 12
        if struct.unpack("!H", answer[4:6])[0]:
            while answer[at]:
                at += 1 + answer[at]
            at += 5
        found = []
        for _ in range(count):
            while answer[at] and answer[at] < 0xC0:
                at += 1 + answer[at]
            at += 2 if answer[at] >= 0xC0 else 1
            kind, _, _, length = struct.unpack("!HHIH", answer[at : at + 10])
            data = answer[at + 10 : at + 10 + length]
            family = {A: socket.AF_INET, AAAA: socket.AF_INET6}.get(kind)
            found.append(socket.inet_ntop(family, data) if family else data)
            at += 10 + length
        return code, found

    def refused_name(self, name, kind=A, **how):
        """Checks that a name leads to nothing but the place where its refusal is explained."""
        code, found = self.ask(name, kind, **how)
        expected = {A: [REFUSAL], AAAA: [REFUSAL6]}.get(kind, [])
        self.check((code, found) == (NOERROR, expected), f"{name} {kind} {how}: {code} {found}")

    def address(self, name):
        """The address that stands for a name here."""
        if name not in self.known:
            code, found = self.ask(name)
            self.check(code == NOERROR and len(found) == 1, f"{name} has no address: {code} {found}")
            self.known[name] = found[0]
        return self.known[name]

    # Connections

    def connect(self, address, port, patience=5):
        """A connection, which counts as one attempt."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.settimeout(patience)
        try:
            connection.connect((address, port))
        except ConnectionResetError:
            # It was taken, and ended before it was looked at.
            self.count()
            connection.close()
            raise
        except OSError:
            connection.close()
            raise
        self.count()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def read_all(self, connection):
        """Everything until the other end closes or resets; and which it was."""
        read = bytearray()
        try:
            while piece := connection.recv(65536):
                read += piece
            return bytes(self.keep(read)), "closed"
        except ConnectionResetError:
            return bytes(self.keep(read)), "reset"
        except TimeoutError:
            return bytes(self.keep(read)), "silent"
        except ssl.SSLError as error:
            return bytes(self.keep(read)), f"alert {error.reason}"

    def refused(self, address, port, say=b"", within=1.0):
        """Checks that a connection is ended within a second, without a byte, and is not left waiting."""
        # A machine that is busy makes a guest wait: the best of three tells.
        for _ in range(3):
            took = self.refused_after(address, port, say)
            if took < within:
                return
        self.check(False, f"{address} {port} took {took:.2f} s")

    def refused_after(self, address, port, say):
        begun = time.monotonic()
        try:
            connection = self.connect(address, port)
        except (ConnectionRefusedError, ConnectionResetError):
            return time.monotonic() - begun
        except OSError as error:
            # The guest's own kernel has no way there. One that is silent has no number.
            is_known = isinstance(error, TimeoutError) or error.errno in (101, 113, 22, 99)
            self.check(is_known, f"{address}: {error!r}")
            return time.monotonic() - begun
        with connection:
            try:
                connection.sendall(say)
                read, how = self.read_all(connection)
            except OSError:
                # It was ended before anything was said.
                read, how = b"", "reset"
        self.check(how == "reset" and not read, f"{address} {port} is {how} with {read[:80]}")
        return time.monotonic() - begun

    def tls(self, connection, name, alpn=("http/1.1",), context=None, session=None):
        """TLS over a connection, verified as programs do by default."""
        context = context or ssl.create_default_context(cafile=AUTHORITY)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        context.check_hostname = name is not None and context.verify_mode != ssl.CERT_NONE
        return context.wrap_socket(connection, server_hostname=name, session=session)

    def hello(self, name, change=None, context=None, alpn=()):
        """The bytes of a ClientHello for a name, changed or not."""
        context = context or ssl.create_default_context(cafile=AUTHORITY)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        made = context.wrap_bio(incoming, outgoing, server_hostname=name)
        with contextlib.suppress(ssl.SSLWantReadError):
            made.do_handshake()
        read = outgoing.read()
        return change(read) if change else read

    def first_answer(self, address, port, sent):
        """What the first TLS record of an answer is: hello, an alert's number, or how it ended."""
        with self.connect(address, port) as connection:
            try:
                connection.sendall(sent)
                read = self.keep(connection.recv(4096))
            except OSError as error:
                return type(error).__name__
        if not read:
            return "closed"
        if read[0] == 22 and read[5] == 2:
            return "hello"
        return read[6] if read[0] == 21 else read[:16].hex()

    # Requests

    def talk(self, name, request, port=443, is_tls=True, address=None):
        """Sends bytes to a host and reads to the end: one attempt."""
        address = address or self.address(name)
        # Before it connects: the proxy does not wait long for those it refuses.
        context = ssl.create_default_context(cafile=AUTHORITY) if is_tls else None
        connection = self.connect(address, port)
        if is_tls:
            connection = self.tls(connection, name, context=context)
        with connection:
            with contextlib.suppress(OSError):
                connection.sendall(request)
            read, how = self.read_all(connection)
        self.how = how
        return read

    def get(self, name, path="/", headers=(), method="GET", body=b"", **more):
        """One request; the status and the body of its answer."""
        if name is None:
            host = f"[{more['address']}]" if ":" in more["address"] else more["address"]
        else:
            host = name
        if more.get("port", 443) != (443 if more.get("is_tls", True) else 80):
            host += f":{more['port']}"
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
        lines += [f"{key}: {value}" for key, value in dict(headers).items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        request = "\r\n".join(lines + ["", ""]).encode() + body
        return self.parse(self.talk(name, request, **more))

    @staticmethod
    def parse(answer):
        """The status, the body and the head of an answer."""
        head, _, body = answer.partition(b"\r\n\r\n")
        found = re.match(rb"HTTP/1\.[01] (\d{3})", head)
        if b"transfer-encoding: chunked" in head.lower():
            whole, rest = b"", body
            while rest:
                size, _, rest = rest.partition(b"\r\n")
                length = int(size, 16)
                whole, rest = whole + rest[:length], rest[length + 2 :]
                if not length:
                    break
            body = whole
        return int(found[1]) if found else 0, body, head.decode("latin-1")

    def denied(self, answer, reason=None, status=403):
        """Checks that an answer is a refusal that names its reason."""
        code, body, _head = answer
        try:
            told = json.loads(body)
        except ValueError:
            told = {}
        self.check(code == status and told.get("reason"), f"not refused: {code} {body[:200]}")
        if reason:
            self.check(told.get("reason") == reason, f"{told.get('reason')} is not {reason}")

    def works(self, name="good.test", **more):
        """Checks that what is allowed goes on."""
        code, body, _head = self.get(name, "/works", **more)
        self.check(code == 200, f"{name} does not work: {code} {body[:200]}")

    def go_on(self):
        """What may be done, again and again, until this is ended."""
        while True:
            with contextlib.suppress(OSError):
                self.get("good.test", "/works", port=80, is_tls=False)
            # An address is worth nothing to the proxy that follows another.
            self.known.clear()
            self.received.clear()
            time.sleep(NEIGHBOUR_PAUSE)

    def report(self):
        received = base64.b64encode(self.received).decode()
        lines = {"failures": self.failures, "attempts": self.attempts, "received": received, "facts": self.facts}
        print(json.dumps(lines), flush=True)


def main():
    guest = Guest()
    attack = sys.argv[1]
    if attack == "neighbour":
        guest.go_on()
    module = importlib.import_module("cases_" + attack.split("-")[0].lower())
    # The proxy does not wait long for those it refuses. A guest that was kept from
    # its processor finds the connection gone: that is refused too, but tells nothing.
    for tries_left in (2, 1, 0):
        try:
            getattr(module, attack.lower().replace("-", "_"))(guest)
        except (ConnectionResetError, BrokenPipeError):
            if tries_left:
                continue
            guest.check(False, traceback.format_exc())
        except Exception:
            guest.check(False, traceback.format_exc())
        break
    guest.report()


if __name__ == "__main__":
    main()
