"""Installs VS Code: vscode.py VERSION INTEGRITY SCRATCH TARGET.

The package of code-server is compared with its integrity, and brings lock
files that hold those of all its dependencies. No script of any package runs:
native modules come prebuilt. SCRATCH/unneeded lists, a line each, what is
removed from the target; fails when a part of it is not there.
"""

import base64
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

# Each has a package.json and a lock file of its own.
PARTS = [".", "lib/vscode", "lib/vscode/extensions"]

# What the package's own script, which does not run, would link.
LINKS = {
    "lib/vscode/bin/helpers/browser.sh": "browser-linux.sh",
    "lib/vscode/bin/remote-cli/code-server": "code-linux.sh",
}

# Its processes give each other ten seconds to say that they have begun, which
# is too little for two of them on an emulated processor that has more to do.
EDITS = {
    "out/node/wrapper.js": (
        "const timeoutInterval = 10000;",
        "const timeoutInterval = 180000;",
    ),
}


def main(version, integrity, scratch, target):
    scratch, target = pathlib.Path(scratch), pathlib.Path(target)
    unpack(fetch(version, integrity, scratch), target)
    for part in PARTS:
        print(f"fetching what {part} depends on", flush=True)
        # Peers that are missing from the lock file are not needed by a server.
        command = ["npm", "ci", "--omit=dev", "--legacy-peer-deps", "--ignore-scripts"]
        command += ["--no-audit", "--no-fund"]
        subprocess.run(command, cwd=target / part, check=True)
    for part in (scratch / "unneeded").read_text().split("\n"):
        shutil.rmtree(target / part)
    for path in target.rglob("*.map"):
        path.unlink()
    for path, (old, new) in EDITS.items():
        text = (target / path).read_text()
        if text.count(old) != 1:
            raise SystemExit(f"{path} does not say once: {old}")
        (target / path).write_text(text.replace(old, new))
    for link, to in LINKS.items():
        link = target / link
        (link.parent / to).chmod(0o755)
        link.unlink(missing_ok=True)
        os.symlink(to, link)


def fetch(version, integrity, scratch):
    command = ["npm", "pack", f"code-server@{version}", "--silent"]
    subprocess.run([*command, "--pack-destination", scratch], check=True)
    path = scratch / f"code-server-{version}.tgz"
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    found = "sha512-" + base64.b64encode(digest).decode()
    if found != integrity:
        raise SystemExit(f"code-server {version} is {found}, not {integrity}")
    return path


def unpack(package, target):
    inside = target.with_name(target.name + "-package")
    with tarfile.open(package) as archive:
        archive.extractall(inside, filter="data")
    os.rename(inside / "package", target)
    inside.rmdir()


main(*sys.argv[1:])
