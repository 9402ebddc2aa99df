#!/usr/bin/env python3
"""A host for the example: HTTPS on the loopback address, as `api.example.com`.

It prints the credential that reaches it on its own terminal and sends it back in
the answer, as hosts do that echo requests. Python's standard library and the
command `openssl` are all it needs.

    python3 upstream.py [DIRECTORY] [--port PORT]

DIRECTORY (`work` beside this file) gets an authority and a certificate, made
once, and `config.toml`, which tells Tombolo where `api.example.com` is and which
authority to trust for it.
"""

import argparse
import http.server
import json
import pathlib
import ssl
import subprocess
import sys

NAME = "api.example.com"
OPENSSL_CONFIG = f"""\
[req]
distinguished_name = name
prompt = no
[name]
CN = Tombolo example authority
[authority]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[host]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:{NAME}
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


def openssl(directory, *arguments):
    command = ["openssl", *map(str, arguments)]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")


def make_certificate(directory):
    """An authority and a certificate of it, unless they are there."""
    if (directory / "host.pem").exists():
        return
    (directory / "openssl.cnf").write_text(OPENSSL_CONFIG)
    elliptic = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    config = ["-config", "openssl.cnf"]
    openssl(directory, "req", *config, "-x509", *elliptic, "-days", 365,
            "-extensions", "authority", "-keyout", "authority.key", "-out", "authority.pem")
    openssl(directory, "req", *config, *elliptic, "-subj", f"/CN={NAME}",
            "-keyout", "host.key", "-out", "host.csr")
    openssl(directory, "x509", "-req", "-in", "host.csr", "-days", 365,
            "-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial",
            "-extfile", "openssl.cnf", "-extensions", "host", "-out", "host.pem")


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers every request with what it carried."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length).decode("utf-8", "replace")
        credential = self.headers.get("authorization", "none")
        print(f"{self.command} {self.path} came with the credential: {credential}", flush=True)
        echo = {"path": self.path, "authorization": credential, "body": body}
        data = (json.dumps(echo) + "\n").encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def log_message(self, *_):
        """Says nothing more than `answer` does."""


def main():
    parser = argparse.ArgumentParser(description="An HTTPS host that echoes requests.")
    default = pathlib.Path(__file__).resolve().parent / "work"
    parser.add_argument("directory", nargs="?", type=pathlib.Path, default=default)
    parser.add_argument("--port", type=int, default=9443, help="0 takes a free one")
    arguments = parser.parse_args()
    directory = arguments.directory.resolve()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    make_certificate(directory)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", arguments.port), Echo)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "host.pem", directory / "host.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    config = directory / "config.toml"
    config.write_text(
        "[egress]\n"
        f'hosts = {{ "{NAME}" = "127.0.0.1:{server.server_port}" }}\n'
        f"root_files = [{json.dumps(str(directory / 'authority.pem'))}]\n"
    )
    print(f"{NAME} is here. In another terminal:\n  export TOMBOLO_CONFIG={config}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
