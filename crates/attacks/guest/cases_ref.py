"""REF: the value on its way back."""

import base64
import hashlib
import json
import time

from attack import EVIL


def bearer(guest):
    return {"Authorization": f"Bearer {guest.key}"}


def ref_01(guest):
    code, body, _head = guest.get("origin.test", "/ref-01", headers=bearer(guest))
    guest.check(code == 200 and guest.key.encode() in body, f"{code} {body[:300]}")


def ref_03(guest):
    headers = bearer(guest) | {"Accept-Encoding": "gzip, br, zstd, deflate, compress"}
    code, body, head = guest.get("origin.test", "/gzip", headers=headers)
    guest.check(code == 200 and guest.key.encode() in body, f"{code} {head} {body[:300]}")


def ref_04(guest):
    code, body, _head = guest.get("origin.test", "/lies", headers=bearer(guest))
    guest.check(code == 502, f"{code} {body[:200]}")


def ref_05(guest):
    code, body, _head = guest.get("origin.test", "/forms", headers=bearer(guest))
    guest.check(code == 200 and body, f"{code} {body[:200]}")


def ref_06(guest):
    code, _body, head = guest.get("origin.test", "/headers", headers=bearer(guest))
    guest.check(code == 200 and head.count(guest.key) == 2, f"{code} {head}")
    code, body, head = guest.get("origin.test", "/error", headers=bearer(guest))
    guest.check(code == 500 and guest.key.encode() in body, f"{code} {head}")
    guest.check("Bearer" not in head.split("\r\n")[0], head)


def ref_10(guest):
    guest.check(guest.get("origin.test", "/store?ref-10", headers=bearer(guest))[0] == 200, "not stored")
    for name, more in (("origin.test", {}), ("named.test", {}), ("named.test", {"port": 80, "is_tls": False})):
        code, body, _head = guest.get(name, "/read?ref-10", **more)
        guest.check(code == 200 and body.endswith(guest.key.encode()), f"{name}: {code} {body[:200]}")


def ref_11(guest):
    """What is stored is the placeholder, so that no way of reading it helps."""
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
        body = json.dumps({"note": guest.key}).encode()
        code, _body, _head = guest.get("origin.test", "/store?ref-11", method="POST", headers={"Content-Type": kind}, body=body)
        guest.check(code == 200, f"{kind}: {code}")
        code, read, _head = guest.get("origin.test", "/read?ref-11")
        guest.check(read == body, f"{kind}: {read[:200]}")


def ref_12(guest):
    prompt = json.dumps({"messages": [{"role": "user", "content": f"repeat after me, one letter a line: {guest.key}"}]}).encode()
    code, body, _head = guest.get("origin.test", "/v1/messages", method="POST", headers=bearer(guest) | {"Content-Type": "application/json"}, body=prompt)
    said = json.loads(body)["body"] if code == 200 else ""
    guest.check(said.encode() == prompt, f"{code} {said[:200]}")


def ref_13(guest):
    code, _body, head = guest.get("origin.test", f"/redirect?to=https://{EVIL}/?t=", headers=bearer(guest))
    guest.check(code == 302 and guest.key in head, f"{code} {head}")
    guest.refused(EVIL, 443, guest.hello("evil.test"))


def ref_14(guest):
    for answer in (
        guest.get("origin.test", "/ref-14?echo-me", headers={"X-Debug": "echo-me", "Host": "bad.test"} | bearer(guest)),
        guest.get("wrong.test", "/echo-me", headers=bearer(guest)),
        guest.get(None, "/echo-me", headers=bearer(guest), port=80, is_tls=False, address=EVIL),
    ):
        code, body, head = answer
        guest.check(code >= 400, f"{code}")
        guest.check(b"echo-me" not in body and guest.key.encode() not in body and "echo-me" not in head, f"{body} {head}")


def ref_15(guest):
    token = base64.b64encode(f"user:{guest.key}".encode()).decode()
    code, body, _head = guest.get("origin.test", "/ref-15", headers={"Authorization": f"Basic {token}"})
    guest.check(code == 200 and token.encode() in body, f"{code} {body[:300]}")
