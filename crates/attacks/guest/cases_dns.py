"""DNS: names as a way out, and as a way to elsewhere."""

import os
import socket
import ssl
import struct
import subprocess
import time

from attack import A, AAAA, EVIL, FORMERR, GATEWAY, NOERROR, NOTIMP, NXDOMAIN, ORIGIN, REFUSAL, REFUSED, SERVFAIL

GATEWAY6 = "fd54:6f6d:626f::1"
TXT, CNAME, MX, PTR, SRV, NULL, ANY, AXFR, SVCB, HTTPS = 16, 5, 15, 12, 33, 10, 255, 252, 64, 65


def dns_01(guest):
    times = []
    for kind in (A, AAAA, TXT):
        for _ in range(8):
            name = f"{os.urandom(15).hex()}.{os.urandom(15).hex()}.evil.test"
            begun = time.monotonic()
            guest.refused_name(name, kind)
            times.append(time.monotonic() - begun)
    # The best of them: the others tell how busy the machine is.
    # An upstream would take its own time on top of the emulated guest's.
    guest.check(min(times) < 0.050, f"an answer takes {min(times) * 1000:.1f} ms")
    # Where that leads nothing goes on, whatever is said: not even to what is allowed.
    bearer = {"Authorization": f"Bearer {guest.key}"}
    for name, reason in (("evil.test", "not_listed"), ("good.test", "ask_again"), ("origin.test", "ask_again")):
        for is_tls in (True, False):
            port = 443 if is_tls else 80
            answer = guest.get(name, headers=bearer, address=REFUSAL, port=port, is_tls=is_tls)
            expected = "port_not_listed" if (name, port) == ("origin.test", 80) else reason
            guest.denied(answer, expected)
    for port in (22, 5432):
        guest.refused(REFUSAL, port, b"\0hello")


def dns_02(guest):
    for kind in (TXT, CNAME, MX, PTR, SRV, NULL, ANY, SVCB, HTTPS, 2, 6, 257, 65535):
        for name, expected in (("good.test", NOERROR), ("evil.test", NOERROR), ("localhost", NXDOMAIN)):
            code, found = guest.ask(name, kind)
            guest.check((code, found) == (expected, []), f"{name} {kind}: {code} {found}")
    for kind in (AXFR, 251):
        for tcp in (False, True):
            code, found = guest.ask("good.test", kind, tcp=tcp)
            guest.check((code, found) == (REFUSED, []), f"{kind}: {code} {found}")
    for klass in (3, 4, 254, 255):
        code, found = guest.ask("version.bind", TXT, klass=klass)
        guest.check((code, found) == (REFUSED, []), f"class {klass}: {code} {found}")
    for operation in (1, 2, 4, 5, 6, 15):
        code, found = guest.ask("good.test", flags=operation << 11)
        guest.check((code, found) == (NOTIMP, []), f"operation {operation}: {code} {found}")


def dns_03(guest):
    for server in ("8.8.8.8", EVIL, ORIGIN, "2001:4860:4860::8888", GATEWAY6):
        for tcp in (False, True):
            code, found = guest.ask("good.test", server=server, tcp=tcp)
            guest.check((code, found) == (NOERROR, [guest.address("good.test")]), f"{server}: {code} {found}")
            guest.refused_name("evil.test", server=server, tcp=tcp)


def dns_04(guest):
    for address in ("1.1.1.1", "8.8.8.8", "9.9.9.9", "2606:4700:4700::1111"):
        for port in (853, 443):
            guest.refused(address, port, guest.hello("dns.google"))
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.settimeout(2)
            datagrams.connect((address, 853))
            datagrams.send(b"\xc0\0\0\0\1" + os.urandom(1195))
            try:
                guest.check(not guest.keep(datagrams.recv(2048)), f"{address} answers")
            except ConnectionRefusedError:
                pass
    for name in ("dns.google", "cloudflare-dns.com", "dns.quad9.net"):
        guest.refused_name(name)
        guest.denied(guest.get(name, "/dns-query", address=REFUSAL), "not_listed")


def dns_05(guest):
    """In a sandbox with a rule against it."""
    question = guest.question("evil.test")
    kind = {"Content-Type": "application/dns-message"}
    guest.denied(guest.get("good.test", "/dns-query", method="POST", headers=kind, body=question))
    guest.denied(guest.get("good.test", "/dns-query?dns=AAABAAABAAAAAAAA"))
    guest.denied(guest.get("good.test", "/x/../dns-query", method="POST", headers=kind, body=question))
    guest.works()


def dns_06(guest):
    """Told by words what the name leads to now, and which port was not used yet."""
    reason, port = guest.words
    if reason == "public":
        answer = guest.get("rebind.test", port=80, is_tls=False)
        guest.check(answer[0] == 200, f"not reached: {answer}")
    else:
        guest.denied(guest.get("rebind.test", port=int(port), is_tls=False), reason)


def dns_07(guest):
    # Of several addresses the public one alone is dialled.
    code, _body, _head = guest.get("mixed.test", port=80, is_tls=False)
    guest.check(code == 200, f"mixed: {code}")
    # Nothing is left of an alias of a name inside.
    guest.denied(guest.get("alias.test", port=8000, is_tls=False))


def dns_08(guest):
    for name in ("good.test", "_8443._https.good.test", "origin.test"):
        for kind in (SVCB, HTTPS):
            code, found = guest.ask(name, kind)
            guest.check(found == [] and code in (NOERROR, NXDOMAIN), f"{name} {kind}: {code} {found}")


def dns_09(guest):
    """In a sandbox of its own, since it uses up what there is of names."""
    told = refused = 0
    for _ in range(300):
        code, found = guest.ask(f"{os.urandom(16).hex()}.wild.test")
        told += code == NOERROR and len(found) == 1
        refused += code == SERVFAIL
    guest.check(told == 256 and refused == 44, f"{told} were told, {refused} refused")
    # Other names go on.
    guest.works()


def dns_10(guest):
    loop = b"\xc0\x0c"
    questions = {
        "loop": guest.question(loop),
        "forward": guest.question(b"\xc0\xff"),
        "pair": guest.question(b"\1a\xc0\x10\xc0\x0c"),
        "label of 64": guest.question(b"\x40" + b"a" * 64 + b"\0"),
        "too long": guest.question(b"".join(b"\x3f" + b"a" * 63 for _ in range(5)) + b"\0"),
        "cut": guest.question("good.test")[:-3],
        "two": guest.question("good.test", counts=(2, 0, 0, 0)),
        "none": guest.question("good.test", counts=(0, 0, 0, 0)),
        "many": guest.question("good.test", counts=(65535, 65535, 65535, 65535)),
    }
    for name, question in questions.items():
        answer = guest.ask_bytes(question)
        code = answer and answer[3] & 15
        guest.check(code == FORMERR, f"{name}: {code}")
    odd = {
        "dot in a label": b"\x09good.test\0",
        "NUL": b"\5good\0\4test\0",
        "space": b"\5good \4test\0",
        "8 bits": b"\4go\xffd\4test\0",
        "percent": b"\7good%00\4test\0",
        "number": b"\1127\0",
        "root": b"\0",
    }
    for name, labels in odd.items():
        code, found = guest.understand(guest.ask_bytes(guest.question(labels)))
        guest.check(code in (NXDOMAIN, FORMERR) and not found, f"{name}: {code} {found}")
    code, found = guest.ask("GoOd.TeSt")
    guest.check((code, found) == (NOERROR, [guest.address("good.test")]), f"capitals: {code} {found}")
    # EDNS with a cookie, a client subnet and padding: nothing of it comes back.
    options = b"".join(struct.pack("!HH", code, len(data)) + data for code, data in (
        (10, b"cookie!!"), (8, b"\0\1\x18\0\x09\x09\x09"), (12, b"\0" * 64), (65001, b"tunnel"),
    ))
    record = b"\0" + struct.pack("!HHIH", 41, 4096, 0, len(options)) + options
    answer = guest.ask_bytes(guest.question("good.test", more=record, counts=(1, 0, 0, 1)))
    for text in (b"cookie", b"tunnel"):
        guest.check(text not in answer, f"{text} comes back")
    version = b"\0" + struct.pack("!HHIH", 41, 4096, 1 << 16, 0)
    answer = guest.ask_bytes(guest.question("good.test", more=version, counts=(1, 0, 0, 1)))
    guest.check(answer is not None and answer[3] & 15 == 0 and b"\x01" in answer[-9:], "version 1 is taken")
    # Answers deserve none.
    guest.check(guest.ask_bytes(guest.question("good.test", flags=0x8180), patience=0.3) is None, "an answer is answered")
    guest.check(guest.ask_bytes(b"\0" * 5, patience=0.3) is None, "noise is answered")


def dns_11(guest):
    with open("/etc/hosts", "r+") as file:
        before = file.read()
        file.write(f"{EVIL} good.test\n{ORIGIN} good.test\n")
    try:
        told = {entry[4][0] for entry in socket.getaddrinfo("good.test", 443, socket.AF_INET)}
        guest.check(EVIL in told, f"the file has no effect: {told}")
        done = subprocess.run(["curl", "-sS", "--max-time", "5", "https://good.test/"], capture_output=True, timeout=20)
        # The first that takes a connection is the one it stays with.
        guest.count()
        guest.keep(done.stdout)
        guest.check(done.returncode in (35, 56, 7), f"curl ended with {done.returncode}: {done.stdout[:100]}")
        for address in told:
            guest.refused(address, 443, guest.hello("good.test"))
    finally:
        with open("/etc/hosts", "w") as file:
            file.write(before)
    guest.works()


def dns_12(guest):
    known = guest.address("good.test")
    for address in ("198.18.0.2", "198.19.255.254", "198.18.200.200", "fd54:6f6d:626f:1::2", "fd54:6f6d:626f:1:9::"):
        if address != known:
            guest.refused(address, 443, guest.hello("good.test"))
    # The same name keeps its address, whatever else was asked for.
    for number in range(50):
        guest.ask(f"n{number}.wild.test")
    code, found = guest.ask("good.test")
    guest.check(found == [known], f"{found} is not {known}")
    guest.works()


def dns_13(guest):
    """In a sandbox that may reach everything public."""
    for _ in range(20):
        name = f"{os.urandom(16).hex()}.evil.test"
        code, found = guest.ask(name)
        guest.check(code == NOERROR and found[0].startswith("198.1"), f"{name}: {code} {found}")
        code, found = guest.ask(name, TXT)
        guest.check((code, found) == (NOERROR, []), f"{name}: {code} {found}")
    # More at once than there may be in a second: what is beyond has no answer.
    questions = [guest.question(f"q{number}.evil.test") for number in range(1500)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        datagrams.settimeout(1)
        datagrams.connect((GATEWAY, 53))
        begun = time.monotonic()
        for question in questions:
            datagrams.send(question)
        took, answered = time.monotonic() - begun, 0
        try:
            while guest.keep(datagrams.recv(4096)):
                answered += 1
        except TimeoutError:
            pass
    # The kernel's buffer may lose some, which nobody can count.
    guest.facts = {"flood": True, "answered": answered, "took": took}
    guest.check(answered <= 500 + 500 * (took + 1), f"{answered} were answered in {took:.1f} s")
    guest.denied(guest.get("lan.test", port=80, is_tls=False))
    guest.denied(guest.get("meta.test", port=80, is_tls=False), "metadata")
    guest.denied(guest.get(None, port=80, is_tls=False, address="169.254.169.254"), "metadata")
    guest.denied(guest.get(None, port=80, is_tls=False, address="10.77.0.1"))
