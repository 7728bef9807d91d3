"""Compilers of CUDA extensions: SGLang, flashinfer and DeepGEMM build kernels when they are first used.

All three look for a toolkit in CUDA_HOME or CUDA_PATH, beside the `nvcc` on the PATH and in /usr/local/cuda,
for `c++` (or CXX) and `ninja` on the PATH. The locked packages bring nvcc, headers, libraries and ninja, but
none of them in these places, and libraries without the names that a linker asks for. Here the same places are
searched first, then the packages, for which `packaged_toolkit` makes a folder with the layout of an installed
toolkit. Imports neither torch nor SGLang.

`eval "$(python -m serval_sglang.cuda_toolkit)"` gives a shell the variables that the launcher gives engines.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from serval_sglang.settings import inherited_environment

_USUAL_TOOLKIT = Path("/usr/local/cuda")
_NVCC_PACKAGE, _RUNTIME_PACKAGE, _NINJA_PACKAGE = "nvidia-cuda-nvcc", "nvidia-cuda-runtime", "ninja"
# A part of a toolkit may be installed: flashinfer's sampling includes the second, which comes with cuRAND.
_HEADERS = ("cuda_runtime.h", "curand.h")
_ADVICE = {
    "nvcc": "the whole CUDA toolkit 13 (CUDA_HOME names its folder), or unset CUDA_HOME to use the packages'",
    "c++": "a C++ compiler, such as Debian's package g++",
    "ninja": "ninja, such as Debian's package ninja-build",
}


class CompilersMissing(RuntimeError):
    """A program that an engine on a GPU compiles with is missing, or the toolkit's folder cannot be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilers:
    """Programs that build a CUDA extension; None for one that was not found.

    `packaged`: nvcc is the one of the locked packages, whose folder is no complete toolkit. `absent_headers`
    are those that the operator's toolkit lacks.
    """

    nvcc: Path | None
    cxx: Path | None
    ninja: Path | None
    packaged: bool = False
    absent_headers: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """Return the names of the programs and headers that were not found."""
        found = {"nvcc": self.nvcc, "c++": self.cxx, "ninja": self.ninja}
        return [*(name for name, path in found.items() if path is None), *self.absent_headers]

    def problem(self) -> str | None:
        """Return a sentence that says which programs are missing and what to install, or None."""
        missing = self.missing()
        if not missing:
            return None
        advice = "; ".join(dict.fromkeys(_ADVICE.get(name, _ADVICE["nvcc"]) for name in missing))
        return (
            f"not found: {', '.join(missing)}; SGLang compiles CUDA kernels when they are first used. "
            f"Install {advice}"
        )


def find_compilers(environment: Mapping[str, str]) -> Compilers:
    """Find the programs for a process with these variables. Writes nothing."""
    named_cxx = environment.get("CXX")
    cxx = (
        _which(named_cxx, environment)
        if named_cxx
        else _which("c++", environment) or _which("g++", environment)
    )
    ninja = _which("ninja", environment) or _file_of_package(_NINJA_PACKAGE, "bin/ninja")
    named = environment.get("CUDA_HOME") or environment.get("CUDA_PATH")
    if named:
        # Not made up for by another one: SGLang and the others would use this.
        nvcc = Path(named) / "bin" / "nvcc"
        if not nvcc.is_file():
            return Compilers(nvcc=None, cxx=cxx, ninja=ninja)
        return Compilers(nvcc=nvcc, cxx=cxx, ninja=ninja, absent_headers=_absent_headers(Path(named)))
    for home in _installed_toolkits(environment):
        return Compilers(nvcc=home / "bin" / "nvcc", cxx=cxx, ninja=ninja)
    return Compilers(nvcc=_file_of_package(_NVCC_PACKAGE, "bin/nvcc"), cxx=cxx, ninja=ninja, packaged=True)


def compiler_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with which a process finds the compilers, to be added to `environment`.

    Makes a folder in the user's cache if nvcc is the locked packages'. Raises `CompilersMissing`.
    """
    found = find_compilers(environment)
    if found.nvcc is None or found.cxx is None or found.ninja is None or found.absent_headers:
        raise CompilersMissing(str(found.problem()))
    home = found.nvcc.parent.parent
    if found.packaged:
        home = packaged_toolkit(home, cache=user_cache(environment), cxx=found.cxx)
    path = [str(home / "bin"), *filter(None, [environment.get("PATH", os.defpath)])]
    if _which("ninja", environment) is None:
        # At the end: the folder also holds other programs of the packages.
        path.append(str(found.ninja.parent))
    variables = {"CUDA_HOME": str(home), "PATH": os.pathsep.join(path)}
    if environment.get("CXX"):
        # Otherwise nvcc would give host code to gcc.
        variables["NVCC_CCBIN"] = environment.get("NVCC_CCBIN") or environment["CXX"]
    elif found.cxx.name != "c++":
        variables["CXX"] = str(found.cxx)
    return variables


def user_cache(environment: Mapping[str, str]) -> Path:
    """Return Serval's folder in the cache folder of the user whose variables these are."""
    home = environment.get("HOME") or str(Path.home())
    return Path(environment.get("XDG_CACHE_HOME") or Path(home) / ".cache") / "serval"


def packaged_toolkit(packages: Path, *, cache: Path, cxx: Path) -> Path:
    """Return a folder in `cache` with the toolkit in `packages`, laid out as an installed one.

    Its name depends on the contents of `packages`, so that other packages get another folder. Processes may
    call this at the same time: a folder appears complete or not at all.

    Raises:
        CompilersMissing: it cannot be made.
    """
    made = cache / f"cuda-toolkit-{_fingerprint(packages)}"
    if made.is_dir():
        return made
    try:
        cache.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{made.name}-", dir=cache))
        try:
            _lay_out(packages, building, cxx=cxx)
            building.chmod(0o755)
            building.rename(made)
        except OSError:
            if not made.is_dir():  # another process was first
                raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except (OSError, subprocess.CalledProcessError) as error:
        detail = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
        raise CompilersMissing(
            f"the toolkit of the locked packages cannot be laid out in {cache}: {detail}. Let HOME name a "
            "folder that can be written, or CUDA_HOME an installed CUDA toolkit 13"
        ) from error
    return made


def _lay_out(packages: Path, folder: Path, *, cxx: Path) -> None:
    for name in ("bin", "include", "nvvm"):
        (folder / name).symlink_to(packages / name)
    libraries = folder / "lib64"
    libraries.mkdir()
    (folder / "lib").symlink_to("lib64")
    for library in (packages / "lib").iterdir():
        (libraries / library.name).symlink_to(library)
        # A linker that is given -lcudart asks for libcudart.so.
        plain = re.sub(r"\.so(\.\d+)+$", ".so", library.name)
        if plain != library.name and not (packages / "lib" / plain).exists():
            (libraries / plain).symlink_to(library)
    (libraries / "stubs").mkdir()
    _make_driver_stub(packages / "include" / "cuda.h", libraries / "stubs" / "libcuda.so", cxx=cxx)


def _make_driver_stub(header: Path, stub: Path, *, cxx: Path) -> None:
    """Make a library with the driver's functions, for linking where there is no libcuda.so."""
    names = sorted(set(re.findall(r"\bcu[A-Z]\w*", header.read_text(encoding="utf-8"))))
    source = "".join(f"void {name}(void) {{}}\n" for name in names)
    flags = ["-shared", "-nostdlib", "-Wl,-soname,libcuda.so.1"]
    subprocess.run(
        [cxx, *flags, "-o", stub, "-x", "c", "-"], input=source, capture_output=True, text=True, check=True
    )


def _fingerprint(packages: Path) -> str:
    libraries = sorted(path.name for path in (packages / "lib").iterdir())
    header = (packages / "include" / "cuda.h").read_bytes()
    parts = [str(packages).encode(), *(name.encode() for name in libraries), header]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _installed_toolkits(environment: Mapping[str, str]) -> Iterator[Path]:
    """Folders of complete toolkits outside the packages, of the CUDA that torch was built for."""
    on_path = _which("nvcc", environment)
    beside = [on_path.parent.parent, on_path.resolve().parent.parent] if on_path else []
    for home in [*beside, _USUAL_TOOLKIT]:
        # A wrapper of nvcc in /usr/local/bin is no toolkit in /usr/local.
        if (home / "bin" / "nvcc").is_file() and not _absent_headers(home):
            wanted = _release_of_packages()
            if wanted is None or _release(home / "bin" / "nvcc") == wanted:
                yield home


def _absent_headers(toolkit: Path) -> tuple[str, ...]:
    return tuple(header for header in _HEADERS if not (toolkit / "include" / header).is_file())


def _release(nvcc: Path) -> int | None:
    """Major number of a compiler's CUDA."""
    try:
        said = subprocess.run(
            [nvcc, "--version"], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    release = re.search(r"release (\d+)\.", said)
    return int(release[1]) if release else None


def _release_of_packages() -> int | None:
    try:
        return int(version(_RUNTIME_PACKAGE).partition(".")[0])
    except PackageNotFoundError:
        return None


def _which(program: str, environment: Mapping[str, str]) -> Path | None:
    found = shutil.which(program, path=environment.get("PATH", os.defpath))
    return None if found is None else Path(found)


def _file_of_package(package: str, ending: str) -> Path | None:
    """Existing file of an installed distribution whose path ends so."""
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        return None
    # Links are kept: an installer may link each file to a cache, where its neighbours are not.
    located = (file.locate() for file in files if str(file).endswith(f"/{ending}"))
    paths = (Path(os.path.normpath(str(path))) for path in located)
    return next((path for path in paths if path.is_file()), None)


def main() -> None:
    """Print the variables for a shell. Raises `SystemExit` if a program is missing."""
    try:
        variables = compiler_environment(inherited_environment())
    except CompilersMissing as error:
        sys.exit(f"serval: {error}.")
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()
