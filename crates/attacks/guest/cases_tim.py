"""TIM: what can be learnt from how long it takes, and from what is said."""

import math
import os
import time

SAMPLES = 1500
# Of the slowest, which tell of the machine, as many are left aside.
KEPT = 0.9


def tim_01(guest):
    """A right placeholder and random ones, in turns, at a host it is not for."""
    wrong = [guest.key[:24] + os.urandom(32).hex() for _ in range(SAMPLES)]
    times, seen = {True: [], False: []}, set()
    with guest.tls(guest.connect(guest.address("good.test"), 443), "good.test") as secure:
        # The connection is no attempt; each request on it is.
        guest.count(-1)
        stream = secure.makefile("rb")
        for number in range(SAMPLES):
            for is_right in (True, False) if number % 2 else (False, True):
                sent = guest.key if is_right else wrong[number]
                request = f"GET / HTTP/1.1\r\nHost: good.test\r\nAuthorization: {sent}\r\n\r\n".encode()
                begun = time.perf_counter()
                guest.count()
                secure.sendall(request)
                status = stream.readline()
                times[is_right].append(time.perf_counter() - begun)
                guest.check(status.startswith(b"HTTP/1.1 200"), status)
                length = 0
                while (line := stream.readline()) not in (b"\r\n", b""):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                # One is as good as the others that differ in nothing but what was sent.
                body = stream.read(length).replace(sent.encode(), b"")
                if body not in seen:
                    seen.add(body)
                    guest.keep(body)
    right, random = (sorted(times[which])[: int(SAMPLES * KEPT)] for which in (True, False))
    means = [sum(some) / len(some) for some in (right, random)]
    spread = [sum((one - mean) ** 2 for one in some) / (len(some) - 1) for some, mean in zip((right, random), means)]
    welch = (means[0] - means[1]) / math.sqrt(sum(one / len(right) for one in spread))
    guest.facts = {"t": welch, "right_us": means[0] * 1e6, "random_us": means[1] * 1e6}
    # What is beyond happens once in fifteen thousand runs by chance; a difference that
    # could be used is one of several per cent.
    is_same = abs(welch) < 4 or abs(means[0] - means[1]) < 0.02 * means[1]
    guest.check(is_same, f"they can be told apart: {guest.facts}")


def tim_02(guest):
    """In a sandbox with rules that look at headers and bodies."""
    answers = []
    for headers, body in (
        ({}, b""),
        ({"X-Team": "looked-for"}, b""),
        ({"X-Team": "other"}, b""),
        ({"Content-Type": "application/json"}, b'{"account":"looked-for"}'),
        ({"Content-Type": "application/json"}, b'{"account":7}'),
        ({"Content-Type": "application/json"}, b'{"account":"other","account":"looked-for"}'),
        ({"Content-Type": "application/json"}, b'{"broken'),
    ):
        answer = guest.get("good.test", "/judged", method="POST", headers=headers, body=body)
        guest.denied(answer)
        answers.append(answer[1])
    for body in answers:
        for word in (b"looked-for", b"other", b"account", b"X-Team", b"x-team", b"broken", b"json"):
            guest.check(word not in body, f"{word} is in {body}")
