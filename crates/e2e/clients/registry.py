"""A host with files for every client: pages, a git repository, packages.

    python3 registry.py EXAMPLE DIRECTORY SITE

EXAMPLE is where the example's `upstream.py` is, which makes the certificate in
DIRECTORY; SITE is what is served. Says its port and serves until it is killed.
"""

import functools
import http.server
import pathlib
import ssl
import sys

example, directory, site = map(pathlib.Path, sys.argv[1:])
sys.path.insert(0, str(example))
import upstream  # noqa: E402


class Files(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """What is asked for is the test's to say."""


directory.mkdir(exist_ok=True)
upstream.make_certificate(directory)
handler = functools.partial(Files, directory=str(site))
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(directory / "host.pem", directory / "host.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
