"""TLS: who is at the other end, and what is inside."""

import contextlib
import os
import socket
import ssl
import struct
import subprocess
import time

from attack import AUTHORITY, CDN, EVIL

UNRECOGNIZED_NAME = 112
NAME = b"good.test"


def renamed(to):
    """Puts another name of the same length into a ClientHello."""
    return lambda hello: hello.replace(NAME, to)


def tls_01(guest):
    context = ssl.create_default_context(cafile=AUTHORITY)
    context.check_hostname = False
    secure = guest.tls(guest.connect(guest.address("good.test"), 443), None, context=context)
    secure.sendall(b"GET /nameless HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\n\r\n")
    code = guest.parse(guest.read_all(secure)[0])[0]
    guest.check(code == 200, f"without a name: {code}")
    der = secure.getpeercert(True)
    guest.check(NAME in der, "the certificate is for another name")
    for address in (EVIL, CDN):
        secure = guest.tls(guest.connect(address, 443), None, context=context)
        secure.sendall(f"GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        guest.denied(guest.parse(guest.read_all(secure)[0]), "not_listed")


def tls_02(guest):
    address = guest.address("good.test")
    for name in ("bad.test", "origin.test", "evil.test", "x.good.test", "good.test.evil.test", "test"):
        first = guest.first_answer(address, 443, guest.hello(name))
        guest.check(first == UNRECOGNIZED_NAME, f"{name}: {first}")
    for literal in (b"9.9.9.9..", b"20.0.2.2\0", b"[fd00::1]", b"127.0.0.1"):
        first = guest.first_answer(address, 443, guest.hello("good.test", renamed(literal)))
        # An address as it should be written counts as no name at all (TLS-01).
        guest.check(first != "hello" or literal == b"127.0.0.1", f"{literal}: {first}")


def tls_03(guest):
    for host in ("bad.test", "bad.test:443", "good.test:444", "BAD.test"):
        request = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        guest.denied(guest.parse(guest.talk("good.test", request.encode())), "authority_mismatch", status=421)
    request = "GET https://bad.test/ HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\n\r\n"
    guest.denied(guest.parse(guest.talk("good.test", request.encode())), "authority_mismatch", status=421)
    guest.works()


def extended(hello, kind, data):
    """A ClientHello with one extension more at its end."""
    body = bytearray(hello[9:])
    at = 34
    at += 1 + body[at]
    at += 2 + struct.unpack("!H", body[at : at + 2])[0]
    at += 1 + body[at]
    length = struct.unpack("!H", body[at : at + 2])[0]
    more = struct.pack("!HH", kind, len(data)) + data
    # Before the last one, which may have to be the last.
    whole = bytes(body[: at]) + struct.pack("!H", length + len(more)) + more + bytes(body[at + 2 : at + 2 + length])
    message = b"\1" + len(whole).to_bytes(3, "big") + whole
    pieces = [message[start : start + 16000] for start in range(0, len(message), 16000)]
    return b"".join(b"\x16\x03\x01" + struct.pack("!H", len(piece)) + piece for piece in pieces)


def tls_04(guest):
    inner = b"\0\0\1\0\1\x2a" + struct.pack("!H", 32) + os.urandom(32) + struct.pack("!H", 144) + os.urandom(144)
    hello = extended(guest.hello("good.test"), 0xFE0D, inner)
    first = guest.first_answer(guest.address("good.test"), 443, hello)
    guest.check(first == "hello", f"a meaningless one: {first}")
    for name in ("bad.test", "evil.test"):
        hello = extended(guest.hello(name), 0xFE0D, inner)
        first = guest.first_answer(guest.address("good.test"), 443, hello)
        guest.check(first == UNRECOGNIZED_NAME, f"{name}: {first}")
    guest.refused(EVIL, 443, extended(guest.hello("good.test"), 0xFE0D, inner))


def tls_05(guest):
    address = guest.address("good.test")
    plain = guest.hello("good.test")
    # In the order of the bytes: everything else first, the name at the end or in the middle.
    for length in (1000, 2040, 4096, 16300, 60000):
        hello = extended(plain, 21, b"\0" * length)
        first = guest.first_answer(address, 443, hello)
        guest.check(first == "hello", f"{length} bytes before the name: {first}")
    endless = b"\1\xff\xff\xff" + plain[9:]
    endless = endless.ljust(80000, b"\0")
    pieces = [endless[start : start + 16000] for start in range(0, len(endless), 16000)]
    first = guest.first_answer(address, 443, b"".join(b"\x16\x03\x01" + struct.pack("!H", len(piece)) + piece for piece in pieces))
    guest.check(first != "hello", f"beyond the bound: {first}")
    message = plain[5:]
    records = b"".join(b"\x16\x03\x01\0\1" + bytes([byte]) for byte in message)
    first = guest.first_answer(address, 443, records)
    guest.check(first in ("hello", 10, 50), f"a record for each byte: {first}")
    with guest.connect(address, 443) as connection:
        for byte in plain:
            connection.sendall(bytes([byte]))
        read = guest.keep(connection.recv(4096))
        guest.check(read[:1] == b"\x16" and read[5:6] == b"\2", f"single bytes: {read[:8]}")


def tls_06(guest):
    address = guest.address("good.test")
    for name in (b"GOOD.TEST", b"Good.Test"):
        first = guest.first_answer(address, 443, guest.hello("good.test", renamed(name)))
        guest.check(first == "hello", f"{name}: {first}")
    for name in (b"good.tes*", b"*.od.test", b"good\0test", b"good_test", b"good.tes.", b"goo d.tes", b"g\xffod.test", b".ood.test", b"xn--.test"):
        first = guest.first_answer(address, 443, guest.hello("good.test", renamed(name)))
        guest.check(first != "hello", f"{name}: {first}")
    long = ".".join(["a" * 60] * 4) + ".good.test"
    first = guest.first_answer(address, 443, guest.hello(long[-250:].lstrip(".")))
    guest.check(first != "hello", f"a long name: {first}")


def tls_07(guest):
    for offered, expected in (((), None), (("h2",), "h2"), (("http/1.1",), "http/1.1"), (("postgresql", "http/1.1"), "http/1.1")):
        secure = guest.tls(guest.connect(guest.address("good.test"), 443), "good.test", alpn=offered)
        guest.check(secure.selected_alpn_protocol() == expected, f"{offered}: {secure.selected_alpn_protocol()}")
        secure.close()
    for name in ("postgresql", "ssh", "acme-tls/1", "dot", "x" * 255):
        first = guest.first_answer(guest.address("good.test"), 443, guest.hello("good.test", alpn=(name,)))
        guest.check(first in (120, "hello"), f"{name}: {first}")
    # Whatever was agreed on, what is said is no HTTP.
    connection = guest.connect(guest.address("good.test"), 443)
    try:
        secure = guest.tls(connection, "good.test", alpn=("postgresql",))
    except ssl.SSLError as error:
        guest.check("NO_APPLICATION_PROTOCOL" in str(error), error)
        return
    guest.check(secure.selected_alpn_protocol() is None, "it speaks postgresql")
    secure.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f")
    read, how = guest.read_all(secure)
    guest.check(how != "silent", f"it is {how} with {read[:40]}")


def tls_08(guest):
    for name in ("untrusted.test", "expired.test", "wrong.test"):
        answer = guest.get(name, "/?" + "x" * 20, headers={"Authorization": f"Bearer {guest.key}"})
        guest.denied(answer, "upstream_tls", status=502)


def tls_09(guest):
    context = ssl.create_default_context(cafile=AUTHORITY)
    context.set_alpn_protocols(["http/1.1"])

    def one(name, session):
        secure = guest.tls(guest.connect(guest.address(name), 443), name, context=context, session=session)
        secure.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        code = guest.parse(guest.read_all(secure)[0])[0]
        guest.check(code == 200, f"{name}: {code}")
        return secure

    first = one("good.test", None)
    guest.check(one("good.test", first.session) is not None, "never")
    other = one("origin.test", first.session)
    guest.check(not other.session_reused, "a session of one name is taken for another")
    for name, session in (("good.test", first.session),):
        text = session is not None and subprocess.run(
            ["openssl", "s_client", "-connect", f"{guest.address(name)}:443", "-servername", name, "-alpn", "http/1.1"],
            input=b"", capture_output=True, timeout=20,
        ).stdout
        guest.count()
        guest.keep(text)
        guest.check(b"Max Early Data: 0" in text or b"Max Early Data" not in text, "early data is offered")


def tls_10(guest):
    for version in ("1_1", "1"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, "TLSv" + version)
        first = guest.first_answer(guest.address("good.test"), 443, guest.hello("good.test", context=context))
        guest.check(first in (70, 40), f"TLS {version}: {first}")
    hello = bytearray(guest.hello("good.test"))
    hello[9:11] = b"\3\0"
    first = guest.first_answer(guest.address("good.test"), 443, b"\x80\x2e\1\3\0" + os.urandom(43))
    guest.check(first != "hello", f"SSL 2: {first}")
    context = ssl.create_default_context(cafile=AUTHORITY)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    secure = guest.tls(guest.connect(guest.address("good.test"), 443), "good.test", context=context)
    guest.check(secure.version() == "TLSv1.2", secure.version())
    secure.close()
    done = subprocess.run(
        ["timeout", "3", "openssl", "s_client", "-tls1_2", "-connect", f"{guest.address('good.test')}:443", "-servername", "good.test"],
        input=b"R\nQ\n", capture_output=True, timeout=20,
    )
    guest.count()
    guest.keep(done.stdout)
    tried = b"RENEGOTIATING" in done.stdout + done.stderr
    guest.check(done.returncode != 0 and tried, f"{done.returncode} {done.stderr[-200:]}")


def tls_12(guest):
    """In a sandbox whose policy passes good.test through."""
    with contextlib.closing(socket.create_connection((guest.address("good.test"), 443), 5)) as connection:
        guest.count()
        context = ssl.create_default_context(cafile=AUTHORITY)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        secure = guest.tls(connection, "good.test", context=context)
        guest.check(b"trusted" in secure.getpeercert(True), "the certificate is not the host's own")
        secure.sendall(f"GET / HTTP/1.1\r\nHost: good.test\r\nAuthorization: {guest.key}\r\nConnection: close\r\n\r\n".encode())
        code, body, _head = guest.parse(guest.read_all(secure)[0])
        guest.check(code == 200 and guest.key.encode() in body, f"{code} {body[:200]}")
    first = guest.first_answer(guest.address("good.test"), 443, guest.hello("bad.test"))
    guest.check(first != "hello", f"another name: {first}")
    guest.refused(EVIL, 443, guest.hello("good.test"))


def tls_13(guest):
    address = guest.address("good.test")
    # Python verifies strictly since 3.13; OpenSSL when it is told to.
    context = ssl.create_default_context()
    guest.check(context.verify_flags & ssl.VERIFY_X509_STRICT, "not a strict Python")
    guest.tls(guest.connect(address, 443), "good.test", context=context).close()
    bundle = os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt"
    done = subprocess.run(
        ["openssl", "s_client", "-x509_strict", "-verify_return_error", "-CAfile", bundle, "-connect", f"{address}:443",
         "-servername", "good.test", "-verify_hostname", "good.test", "-showcerts"],
        input=b"", capture_output=True, timeout=20,
    )
    guest.count()
    guest.keep(done.stdout)
    guest.check(b"Verify return code: 0" in done.stdout, done.stderr[-300:])
    guest.check(done.stdout.count(b"BEGIN CERTIFICATE") == 2, "the authority is not in the chain")
    for words in (["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}"], ["wget", "-q", "-S", "-O", "/dev/null"]):
        with contextlib.suppress(FileNotFoundError):
            done = subprocess.run(words + ["--resolve", f"good.test:443:{address}"] * (words[0] == "curl") + ["https://good.test/"], capture_output=True, timeout=30)
            guest.count()
            guest.check(b"200" in done.stdout + done.stderr, f"{words[0]}: {done.stderr[-200:]}")


def tls_14(guest):
    """With a word: a certificate of another sandbox is not taken here."""
    if guest.words:
        with open("/tmp/leaf.pem", "w") as file:
            file.write(bytes.fromhex(guest.words[0]).decode())
        done = subprocess.run(["openssl", "verify", "-CAfile", "/etc/ssl/certs/ca-certificates.crt", "/tmp/leaf.pem"], capture_output=True)
        guest.check(done.returncode != 0, "another sandbox's certificate is trusted")
        return
    secure = guest.tls(guest.connect(guest.address("good.test"), 443), "good.test")
    guest.facts = {"leaf": ssl.DER_cert_to_PEM_cert(secure.getpeercert(True)).encode().hex()}
    secure.close()
    own = "/usr/local/share/ca-certificates/tombolo.crt"
    done = subprocess.run(["openssl", "x509", "-noout", "-subject", "-in", own], capture_output=True)
    guest.check(done.returncode == 0, "there is no authority here")
    found = subprocess.run(
        "grep -rlsI 'PRIVATE KEY-----' /etc /usr/local/share /run /var/lib /home /root /tmp --exclude-dir=attacks || true",
        shell=True, capture_output=True, timeout=60,
    ).stdout
    guest.check(not found.strip(), f"keys: {found}")


def tls_15(guest):
    # HTTP where TLS is usual: the same policy, whatever the port.
    answer = guest.get("good.test", port=443, is_tls=False)
    guest.check(answer[0] in (502, 400), f"plain HTTP on 443: {answer[0]}")
    for host in ("bad.test", "bad.test:443"):
        request = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        guest.denied(guest.parse(guest.talk("good.test", request, port=443, is_tls=False)), "authority_mismatch", status=421)
    guest.works(port=8080)
    request = b"GET / HTTP/1.1\r\nHost: bad.test:8080\r\nConnection: close\r\n\r\n"
    guest.denied(guest.parse(guest.talk("good.test", request, port=8080)), "authority_mismatch", status=421)
    first = guest.first_answer(guest.address("good.test"), 8080, guest.hello("bad.test"))
    guest.check(first == UNRECOGNIZED_NAME, f"another name on another port: {first}")
    # A greeting before TLS, as mail has it, is not a protocol of the web.
    answer = guest.talk("good.test", b"EHLO x\r\nSTARTTLS\r\n", port=587, is_tls=False)
    guest.check(guest.parse(answer)[0] in (0, 400), f"STARTTLS: {answer[:80]}")


def tls_16(guest):
    for said in (b"SSH-2.0-OpenSSH_10.0\r\n", guest.hello("evil.test"), b"\0\0\0\x08\x04\xd2\x16\x2f", b"\x16\3\1" + os.urandom(64)):
        begun = time.monotonic()
        secure = guest.tls(guest.connect(guest.address("good.test"), 443), "good.test")
        with contextlib.suppress(OSError):
            secure.sendall(said)
        read, how = guest.read_all(secure)
        took = time.monotonic() - begun
        guest.check(how != "silent" and took < 1.5, f"{said[:8]} is {how} after {took:.1f} s")
        guest.check(b"SSH-" not in read, "somebody speaks SSH")
    guest.refused(guest.address("good.test"), 2222, b"SSH-2.0-OpenSSH_10.0\r\n")
