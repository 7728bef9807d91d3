"""Compilers of an engine on a GPU: where they are looked for, and the toolkit made of the locked packages."""

import ast
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distribution
from pathlib import Path

import pytest

from serval_sglang import cuda_toolkit
from serval_sglang.cuda_toolkit import (
    CompilersMissing,
    compiler_environment,
    find_compilers,
    packaged_toolkit,
)

CXX = shutil.which("c++")
needs_cxx = pytest.mark.skipif(CXX is None, reason="needs a C++ compiler (Debian: apt install g++)")


def program(path: Path, says: str = "") -> Path:
    """Write an executable script that prints a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def toolkit(folder: Path, release: str = "13.0") -> Path:
    """Make a folder with the compiler and headers of an installed toolkit."""
    program(folder / "bin" / "nvcc", f"Cuda compilation tools, release {release}, V{release}.88")
    (folder / "include").mkdir()
    for name in ("cuda_runtime.h", "curand.h"):
        (folder / "include" / name).touch()
    return folder


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the only programs on the PATH: c++ and ninja. No toolkit is in the usual place."""
    monkeypatch.setattr(cuda_toolkit, "_USUAL_TOOLKIT", tmp_path / "nowhere")
    for name in ("c++", "ninja"):
        program(tmp_path / "local" / "bin" / name)
    return tmp_path / "local" / "bin"


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Folder with the layout of the locked NVIDIA packages."""
    folder = tmp_path / "packages"
    program(folder / "bin" / "nvcc")
    for name in ("include", "nvvm", "lib"):
        (folder / name).mkdir()
    (folder / "include" / "cuda.h").write_text("CUresult cuInit(unsigned int);\n")
    for name in ("libcudart.so.13", "libcudart_static.a", "libcheckpoint.so"):
        (folder / "lib" / name).touch()
    return folder


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
def test_find_compilers_takes_the_toolkit_that_the_operator_names(
    variable: str, tmp_path: Path, programs: Path
) -> None:
    named = toolkit(tmp_path / "named", release="12.9")
    toolkit(tmp_path / "nowhere")
    found = find_compilers({"PATH": str(programs), variable: str(named)})
    assert (found.nvcc, found.packaged, found.problem()) == (named / "bin" / "nvcc", False, None)
    # Not made up for by another one: SGLang's compilers would use this folder.
    empty = find_compilers({"PATH": str(programs), variable: str(tmp_path / "empty")})
    assert empty.missing() == ["nvcc"]
    assert "unset CUDA_HOME" in str(empty.problem())


def test_find_compilers_takes_an_installed_toolkit_before_the_packages(
    tmp_path: Path, programs: Path
) -> None:
    usual, other = toolkit(tmp_path / "nowhere"), toolkit(tmp_path / "other")
    assert find_compilers({"PATH": str(programs)}).nvcc == usual / "bin" / "nvcc"
    path = f"{other / 'bin'}:{programs}"
    assert find_compilers({"PATH": path}).nvcc == other / "bin" / "nvcc"
    # A link on the PATH leads to its toolkit, a wrapper to the usual one.
    (programs / "nvcc").symlink_to(other / "bin" / "nvcc")
    assert find_compilers({"PATH": str(programs)}).nvcc == other / "bin" / "nvcc"
    (programs / "nvcc").unlink()
    program(programs / "nvcc", "release 13.0")
    assert find_compilers({"PATH": str(programs)}).nvcc == usual / "bin" / "nvcc"


def test_find_compilers_passes_over_a_toolkit_of_another_cuda(tmp_path: Path, programs: Path) -> None:
    old = toolkit(tmp_path / "nowhere", release="12.9")
    found = find_compilers({"PATH": str(programs)})
    assert found.nvcc != old / "bin" / "nvcc"
    assert found.packaged


@pytest.mark.parametrize("header", ["cuda_runtime.h", "curand.h"])
def test_find_compilers_passes_over_a_part_of_a_toolkit_unless_it_is_named(
    header: str, tmp_path: Path, programs: Path
) -> None:
    part = toolkit(tmp_path / "nowhere")
    (part / "include" / header).unlink()
    assert find_compilers({"PATH": str(programs)}).packaged
    with pytest.raises(CompilersMissing, match=f"not found: {header};.* the whole CUDA toolkit 13"):
        compiler_environment({"PATH": str(programs), "CUDA_HOME": str(part)})


def test_find_compilers_falls_back_on_the_locked_packages(tmp_path: Path, programs: Path) -> None:
    (programs / "ninja").unlink()
    found = find_compilers({"PATH": str(programs)})
    assert found.packaged
    assert found.nvcc is not None
    assert found.nvcc.name == "nvcc"
    assert (found.nvcc.parents[1] / "lib" / "libcudart.so.13").is_file()
    assert found.ninja is not None
    assert subprocess.run([found.ninja, "--version"], capture_output=True, check=False).returncode == 0


def test_find_compilers_names_what_is_missing_and_what_to_install(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_toolkit, "_file_of_package", lambda *_: None)
    for name in ("c++", "ninja"):
        (programs / name).unlink()
    found = find_compilers({"PATH": str(programs)})
    assert found.missing() == ["nvcc", "c++", "ninja"]
    with pytest.raises(CompilersMissing, match=r"CUDA toolkit 13.*package g\+\+;.*ninja-build"):
        compiler_environment({"PATH": str(programs)})
    # Debian's package g++ also has this name.
    program(programs / "g++")
    assert find_compilers({"PATH": str(programs)}).cxx == programs / "g++"
    assert find_compilers({"PATH": str(programs), "CXX": "clang++"}).cxx is None


def test_compiler_environment_names_toolkit_and_programs(tmp_path: Path, programs: Path) -> None:
    usual = toolkit(tmp_path / "nowhere")
    given = {"PATH": str(programs)}
    assert compiler_environment(given) == {"CUDA_HOME": str(usual), "PATH": f"{usual}/bin:{programs}"}
    (programs / "ninja").unlink()
    made = {**given, **compiler_environment(given)}
    # After the operator's programs, because the folder holds others too.
    assert made["PATH"].startswith(f"{usual}/bin:{programs}:")
    assert shutil.which("ninja", path=made["PATH"]) is not None
    (programs / "c++").rename(programs / "g++")
    assert compiler_environment(given)["CXX"] == str(programs / "g++")


def test_compiler_environment_gives_nvcc_the_operators_compiler(tmp_path: Path, programs: Path) -> None:
    toolkit(tmp_path / "nowhere")
    program(programs / "g++-13")
    given = {"PATH": str(programs), "CXX": "g++-13"}
    made = compiler_environment(given)
    assert "CXX" not in made
    assert made["NVCC_CCBIN"] == "g++-13"
    assert compiler_environment({**given, "NVCC_CCBIN": "g++-12"})["NVCC_CCBIN"] == "g++-12"


@needs_cxx
def test_packaged_toolkit_has_the_layout_of_an_installed_one(packages: Path, tmp_path: Path) -> None:
    assert CXX is not None
    made = packaged_toolkit(packages, cache=tmp_path / "cache", cxx=Path(CXX))
    for link in ("bin/nvcc", "include/cuda.h", "nvvm", "lib64/libcudart.so", "lib64/libcudart.so.13"):
        assert (made / link).exists(), link
    assert (made / "lib64" / "libcudart.so").resolve().name == "libcudart.so.13"
    assert (made / "lib" / "libcudart_static.a").exists()
    assert (made / "lib64" / "stubs" / "libcuda.so").is_file()
    before = made.stat().st_mtime_ns
    assert packaged_toolkit(packages, cache=tmp_path / "cache", cxx=Path(CXX)) == made
    assert made.stat().st_mtime_ns == before


@needs_cxx
def test_packaged_toolkit_is_another_one_for_other_packages(packages: Path, tmp_path: Path) -> None:
    assert CXX is not None
    first = packaged_toolkit(packages, cache=tmp_path / "cache", cxx=Path(CXX))
    (packages / "lib" / "libcudart.so.13").rename(packages / "lib" / "libcudart.so.14")
    second = packaged_toolkit(packages, cache=tmp_path / "cache", cxx=Path(CXX))
    assert second != first
    assert (second / "lib64" / "libcudart.so").resolve().name == "libcudart.so.14"


@needs_cxx
def test_packaged_toolkit_is_made_once_by_processes_that_start_together(
    packages: Path, tmp_path: Path
) -> None:
    assert CXX is not None
    make = functools.partial(packaged_toolkit, packages, cache=tmp_path / "cache", cxx=Path(CXX))
    with ThreadPoolExecutor(8) as pool:
        made = {future.result() for future in [pool.submit(make) for _ in range(8)]}
    assert len(made) == 1
    assert list((tmp_path / "cache").iterdir()) == list(made)
    assert (made.pop() / "lib64" / "stubs" / "libcuda.so").is_file()


def test_packaged_toolkit_says_why_it_cannot_be_made(packages: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CompilersMissing, match=r"Not a directory.*Let HOME name a folder"):
        packaged_toolkit(packages, cache=tmp_path / "file" / "cache", cxx=Path("c++"))
    with pytest.raises(CompilersMissing, match="CUDA_HOME an installed CUDA toolkit 13"):
        packaged_toolkit(packages, cache=tmp_path / "cache", cxx=Path("/bin/false"))
    assert list((tmp_path / "cache").iterdir()) == []


@needs_cxx
def test_locked_packages_compile_and_link_in_the_layout_made_here(tmp_path: Path) -> None:
    assert CXX is not None
    nvcc = Path(str(distribution("nvidia-cuda-nvcc").locate_file("nvidia/cu13/bin/nvcc")))
    made = packaged_toolkit(nvcc.parents[1], cache=tmp_path, cxx=Path(CXX))
    source, compiled = tmp_path / "kernel.cu", tmp_path / "kernel.o"
    # The second header refuses a compiler of another release than the headers; flashinfer includes it.
    source.write_text(
        "#include <cuda.h>\n#include <cuda/std/cstddef>\n"
        "__global__ void kernel(float* x) { x[threadIdx.x] += 1.f; }\n"
        "int run(float* x) { kernel<<<1, 32>>>(x); return cuInit(0); }\n"
    )
    target = "-gencode=arch=compute_90a,code=sm_90a"
    compile_it = [made / "bin" / "nvcc", target, "-Xcompiler", "-fPIC", "-c", source, "-o", compiled]
    subprocess.run(compile_it, check=True)

    def link(home: Path) -> subprocess.CompletedProcess[str]:
        # The flags of tvm-ffi and flashinfer.
        folders = [f"-L{home}/lib64", f"-L{home}/lib64/stubs"]
        command = [
            CXX,
            compiled,
            "-shared",
            "-Wl,-z,defs",
            *folders,
            "-lcudart",
            "-lcuda",
            "-o",
            tmp_path / "k.so",
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = link(made)
    assert done.returncode == 0, done.stderr
    needed = subprocess.run(["readelf", "-d", tmp_path / "k.so"], capture_output=True, text=True, check=True)
    assert "[libcudart.so.13]" in needed.stdout
    assert "[libcuda.so.1]" in needed.stdout
    # Without the layout the folder of the packages is no toolkit.
    assert "cannot find -lcudart" in link(nvcc.parents[1]).stderr


def test_command_prints_the_variables_for_a_shell(tmp_path: Path, programs: Path) -> None:
    usual = toolkit(tmp_path / "a folder")
    command = [sys.executable, "-m", "serval_sglang.cuda_toolkit"]
    given = {"PATH": str(programs), "CUDA_HOME": str(usual)}
    printed = subprocess.run(command, env=given, capture_output=True, text=True, check=True).stdout
    shell = subprocess.run(
        ["/bin/sh", "-c", f"{printed}\necho $PATH; command -v nvcc"],
        env=given,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shell.stdout.splitlines() == [f"{usual}/bin:{programs}", f"{usual}/bin/nvcc"]
    refused = subprocess.run(command, env={"PATH": "/nowhere"}, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "not found: " in refused.stderr


# The functions with which each of the three looks for a toolkit: package, file, function.
FINDERS = [
    ("apache-tvm-ffi", "tvm_ffi/cpp/extension.py", "_find_cuda_home"),
    ("sglang", "sglang/kernels/jit/utils/compile/toolchain.py", "cuda_home"),
    ("flashinfer-python", "flashinfer/jit/cpp_ext.py", "get_cuda_path"),
    ("sgl-deep-gemm", "deep_gemm/cuda_helpers.py", "find_cuda_home"),
]


def finder(package: str, file: str, name: str) -> Callable[[], str]:
    """Function of an installed file, without importing its package, which would load CUDA libraries."""
    tree = ast.parse(Path(str(distribution(package).locate_file(file))).read_text())
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    function.decorator_list = []
    space = {"os": os, "shutil": shutil, "subprocess": subprocess, "Path": Path, "IS_WINDOWS": False}
    exec(compile(ast.Module([function], []), file, "exec"), space)  # noqa: S102
    return space[name]  # type: ignore[return-value]


@pytest.mark.parametrize("where", FINDERS, ids=lambda where: where[0])
def test_programs_that_compile_look_where_the_environment_points(
    where: tuple[str, str, str], tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = toolkit(tmp_path / "nowhere")
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in compiler_environment({"PATH": f"{programs}:/usr/bin:/bin"}).items():
        monkeypatch.setenv(name, value)
    assert finder(*where)() == str(usual)


def test_module_imports_neither_torch_nor_sglang() -> None:
    code = "import serval_sglang.cuda_toolkit, sys; sys.exit(bool({'torch', 'sglang'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
