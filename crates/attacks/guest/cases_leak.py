"""LEAK: what else could hold a value. Most of it is looked for from outside."""

import os


def leak_02(guest):
    """In a sandbox whose secret may stand in path and query."""
    code, body, _head = guest.get("origin.test", f"/bot{guest.key}/send?chat=1&key={guest.key}")
    guest.check(code == 200 and guest.key.encode() in body, f"{code} {body[:200]}")


def leak_05(guest):
    """From inside: no process and no file has more than the placeholder."""
    guest.check(guest.key in os.environ.values(), "there is no placeholder")
    for number in filter(str.isdigit, os.listdir("/proc")):
        for name in ("environ", "cmdline"):
            try:
                with open(f"/proc/{number}/{name}", "rb") as file:
                    guest.keep(file.read())
            except OSError:
                continue
