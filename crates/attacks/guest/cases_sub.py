"""SUB: where placeholders become values, and where they must not."""

import base64
import json

from attack import CDN

PREFIX = "DENO_SECRET_PLACEHOLDER_"


def echo(guest, answer):
    """What a host says that it got."""
    code, body, _head = answer
    guest.check(code == 200, f"{code} {body[:200]}")
    try:
        return json.loads(body)
    except ValueError:
        guest.check(False, f"no echo: {body[:200]}")
        return {"headers": [], "target": "", "body": ""}


def header(said, name):
    return [value for key, value in said["headers"] if key.lower() == name]


def sub_01(guest):
    """That the host saw the value is for the host to say."""
    guest.check(guest.key.startswith(PREFIX) and len(guest.key) == 88, guest.key)
    said = echo(guest, guest.get("origin.test", "/sub-01", headers={"Authorization": f"Bearer {guest.key}"}))
    guest.check(header(said, "authorization") == [f"Bearer {guest.key}"], said)


def sub_02(guest):
    for pair in (f"user:{guest.key}", f"{guest.key}:", f"{guest.key}:{guest.key}"):
        token = base64.b64encode(pair.encode()).decode()
        for scheme, sent in (("Basic", token), ("basic", token), ("Basic", token.rstrip("="))):
            said = echo(guest, guest.get("origin.test", "/sub-02", headers={"Authorization": f"{scheme} {sent}"}))
            back = header(said, "authorization")
            guest.check(len(back) == 1 and sent in back[0], f"{pair[:8]} {scheme}: {back}")


def sub_03(guest):
    for sent in (guest.key, f"Bearer {guest.key}", "Basic " + base64.b64encode(f"a:{guest.key}".encode()).decode()):
        said = echo(guest, guest.get("good.test", "/sub-03", headers={"Authorization": sent}))
        guest.check(header(said, "authorization") == [sent], said)


def sub_04(guest):
    # The query is no slot unless it is asked for.
    said = echo(guest, guest.get("origin.test", f"/q?key={guest.key}"))
    guest.check(said["target"] == f"/q?key={guest.key}", said)


def sub_13(guest):
    sent = {"Authorization": f"Bearer {guest.key}"}
    # The body is sent when it was asked for.
    address = guest.address("origin.test")
    with guest.tls(guest.connect(address, 443), "origin.test") as secure:
        secure.sendall(
            b"POST /expect HTTP/1.1\r\nHost: origin.test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n"
            + f"Authorization: Bearer {guest.key}\r\nConnection: close\r\n\r\n".encode()
        )
        first = guest.keep(secure.recv(100))
        guest.check(first.startswith(b"HTTP/1.1 100"), first)
        secure.sendall(b"body")
        said = echo(guest, guest.parse(guest.read_all(secure)[0]))
        guest.check(said["body"] == "body" and not header(said, "expect"), said)
    said = echo(guest, guest.get("origin.test", "/range", headers=sent | {"Range": "bytes=0-1"}))
    guest.check(not header(said, "range"), said)
    code, body, head = guest.get("origin.test", "/head", method="HEAD", headers=sent)
    guest.check(code == 200 and body == b"" and "content-length: 0" not in head.lower(), f"{code} {head}")
    preflight = {"Origin": "https://a.test", "Access-Control-Request-Method": "PUT"}
    said = echo(guest, guest.get("origin.test", "/options", method="OPTIONS", headers=preflight))
    guest.check(said["method"] == "OPTIONS" and header(said, "origin") == ["https://a.test"], said)


def sub_18(guest):
    """Told another sandbox's placeholder."""
    said = echo(guest, guest.get("origin.test", "/sub-18", headers={"Authorization": f"Bearer {guest.words[0]}"}))
    guest.check(header(said, "authorization") == [f"Bearer {guest.words[0]}"], said)


def sub_19(guest):
    said = echo(guest, guest.get("named.test", "/sub-19", port=80, is_tls=False, headers={"Authorization": guest.key}))
    guest.check(header(said, "authorization") == [guest.key], said)


def sub_20(guest):
    sent = {"Authorization": f"Bearer {guest.key}"}
    # Another port than its host is given for, and raw bytes.
    connection = guest.connect(guest.address("origin.test"), 5432)
    connection.sendall(f"\0password {guest.key}\n".encode())
    read = guest.keep(connection.recv(1000))
    guest.check(guest.key.encode() in read, read)
    connection.close()
    guest.denied(guest.get("origin.test", headers=sent, port=8443, is_tls=False))
    guest.denied(guest.get(None, headers=sent, port=80, is_tls=False, address=CDN))


def sub_23(guest):
    """Told whether the secret is rotated or revoked by now."""
    answer = guest.get("origin.test", f"/sub-23-{guest.words[0]}", headers={"Authorization": f"Bearer {guest.key}"})
    if guest.words[0] == "revoked":
        guest.denied(answer)
    else:
        echo(guest, answer)


def sub_24(guest):
    wrong = PREFIX + "0" * 64
    turned = guest.key[:-1] + ("0" if guest.key[-1] != "0" else "1")
    for guess in (wrong, turned, guest.key.upper(), guest.key[:-1], PREFIX):
        said = echo(guest, guest.get("origin.test", "/sub-24", headers={"Authorization": f"Bearer {guess}"}))
        guest.check(header(said, "authorization") == [f"Bearer {guess}"], said)
