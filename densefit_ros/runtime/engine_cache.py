"""Built TensorRT engines on disk, each with a header that says for which machine and network it was built.

An engine runs only on the GPU model and TensorRT version that built it, and building takes minutes, so it is built once
and kept.  The header is checked before a byte of the engine is used: a file of another machine, an older network or half
a write is told apart with its reason and rebuilt.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from .cache_file import keep

_MAGIC = b"densefit-engine-1\n"


@dataclass(frozen=True)
class EngineKey:
    """Everything that an engine depends on."""

    onnx_sha256: str
    gpu: str  # name as the driver gives it, and how many multiprocessors it has
    compute_capability: str  # "8.7"
    tensorrt: str  # full version
    precision: str  # "fp32" or "fp16"
    max_batch: int
    recipe: int = 0  # how this package builds (tensorrt_build.RECIPE)

    def file_name(self, network: str) -> str:
        """A readable, safe file name that is unique per key."""
        digest = hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:12]
        gpu = re.sub(r"[^A-Za-z0-9]+", "-", self.gpu).strip("-").lower()
        return f"{network}-{gpu}-{self.precision}-{digest}.engine"


def file_sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def default_cache_dir() -> Path:
    """$DENSEFIT_CACHE, else $XDG_CACHE_HOME/densefit, else ~/.cache/densefit."""
    named = os.environ.get("DENSEFIT_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "densefit"


def write_engine(path: Path, key: EngineKey, engine: bytes) -> None:
    """Store an engine; where that cannot be, the log says so and the next start builds anew."""
    header = dataclasses.asdict(key) | {"engine_sha256": hashlib.sha256(engine).hexdigest()}
    keep(path, _MAGIC + json.dumps(header, sort_keys=True).encode() + b"\n" + engine, "the engine")


def read_engine(path: Path, key: EngineKey) -> tuple[bytes | None, str]:
    """The engine's bytes, or None with the reason why the file cannot be used here."""
    try:
        if not path.is_file():
            return None, "not built yet"
        content = path.read_bytes()
    except OSError as e:
        return None, f"the stored one cannot be read: {e}"
    if not content.startswith(_MAGIC):
        return None, "not an engine file of this package"
    line, separator, engine = content[len(_MAGIC) :].partition(b"\n")
    try:
        header = json.loads(line)
    except ValueError:
        return None, "damaged header"
    if not separator or not isinstance(header, dict):
        return None, "damaged header"
    for name, wanted in dataclasses.asdict(key).items():
        if header.get(name) != wanted:
            return None, f"built for {name} {header.get(name)}, here it is {wanted}"
    if header.get("engine_sha256") != hashlib.sha256(engine).hexdigest():
        return None, "damaged or incomplete"
    return engine, ""
