"""The machine as far as files and the interpreter tell: nothing is started, nothing is imported."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Final

from minedraft.cli.doctor.finding import Finding, broken, not_here, ok
from minedraft.config import CoordinatorSettings
from minedraft.kv.sizing import machine_memory_bytes

GIB: Final = 1 << 30
MIB: Final = 1 << 20
CPU_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
MEMORY_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
NAMESPACES: Final = Path("/proc/self/ns")
CONTAINER_FILES: Final = (Path("/.dockerenv"), Path("/run/.containerenv"))
FIRST_CGROUP: Final = Path("/proc/1/cgroup")
CONTAINER_WORDS: Final = ("docker", "kubepods", "containerd", "libpod", "lxc")
FEWEST_FILES: Final = 1024  # a service with some dozens of peers and streams stays far below
ENGINE: Final = "pip install 'minedraft[engine]'"
GPU_EXTRA: Final = "only of use with an NVIDIA GPU: pip install 'minedraft[gpu]'"
PACKAGES: Final = {
    "minedraft": "pip install minedraft",
    "grpcio": "pip install minedraft",
    "protobuf": "pip install minedraft",
    "torch": ENGINE,
    "transformers": ENGINE,
    "flash-attn": f"{GPU_EXTRA} (flash-attn is built against the torch that is there: --no-build-isolation)",
    "nccl4py": GPU_EXTRA,
    "cuda-bindings": GPU_EXTRA,
}


def system() -> Finding:
    """Operating system and kernel. This project runs on Linux."""
    found = f"{platform.system()} {platform.release()}, {platform.machine()}"
    values = {"system": platform.system(), "kernel": platform.release(), "machine": platform.machine()}
    if sys.platform != "linux":
        return broken("system", "operating system", found, "the model services are made for Linux", **values)
    return ok("system", "operating system", found, **values)


def cores() -> Finding:
    """Cores that this process may use, and what its control group allows of them."""
    usable = len(os.sched_getaffinity(0))
    quota = _cpu_quota()
    found = f"{usable} of {os.cpu_count()} cores" + (f", and no more time than {quota:g} cores have" if quota else "")
    return ok("cores", "cores", found, usable=usable, total=os.cpu_count(), quota=quota)


def memory() -> Finding:
    """Memory of the machine, and the control group's limit."""
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    limit = machine_memory_bytes()
    limited = limit < total
    found = f"{total / GIB:.1f} GiB, {free / GIB:.1f} free" + (f"; limited to {limit / GIB:.1f} GiB" if limited else "")
    return ok("memory", "memory", found, total=total, free=free, limit=limit if limited else None)


def python() -> Finding:
    """The interpreter. Raises nothing: what is too old could not have imported this file."""
    found = f"{platform.python_implementation()} {platform.python_version()}"
    return ok("python", "Python", found, version=platform.python_version(), executable=sys.executable)


def packages() -> list[Finding]:
    """Versions of the packages that decide what works."""
    return [_package(name, mend) for name, mend in PACKAGES.items()]


def container() -> Finding:
    """Whether this looks like the inside of a container. A container that hides it is not seen."""
    sign = next((str(path) for path in CONTAINER_FILES if path.exists()), "")
    if not sign and any(word in _text(FIRST_CGROUP) for word in CONTAINER_WORDS):
        sign = str(FIRST_CGROUP)
    return ok("container", "container", f"yes, by {sign}" if sign else "no sign of one", inside=bool(sign))


def namespaces() -> Finding:
    """What two services must have in common to share memory: compare it between two containers."""
    pid, ipc, boot = _inode(NAMESPACES / "pid"), _inode(NAMESPACES / "ipc"), _text(BOOT_ID).strip()
    found = f"boot {boot[:8] or '?'}, PID namespace {pid or '?'}, IPC namespace {ipc or '?'}"
    return ok("namespaces", "namespaces", found, boot_id=boot, pid=pid, ipc=ipc)


def shared_memory(directory: Path) -> Finding:
    """Room in the folder for shared memory, against the most that a channel may take by default."""
    name, title = "shm", f"shared memory in {directory}"
    need = int(CoordinatorSettings.model_fields["channel_mib"].default) * MIB
    if not directory.is_dir():
        return broken(name, title, "there is no such folder", "name a folder in memory by --shm-dir")
    usage = shutil.disk_usage(directory)
    values = {"total": usage.total, "free": usage.free, "needed": need}
    found = f"{usage.total / MIB:.0f} MiB, {usage.free / MIB:.0f} free; a channel takes up to {need / MIB:.0f}"
    if not os.access(directory, os.W_OK | os.X_OK):
        return broken(name, title, f"{found}; not writable", "name a folder that can be written by --shm-dir", **values)
    if usage.free < need:
        mend = "make it larger (--shm-size 1g of a container), name another by --shm-dir, or give --channel-mib"
        return broken(name, title, found, mend, **values)
    return ok(name, title, found, **values)


def limits() -> list[Finding]:
    """Limits of this process that the services inherit when they are started from here."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    said = "no limit" if files == resource.RLIM_INFINITY else f"{files}, at most {most}"
    values = {"soft": _limit(files), "hard": _limit(most)}
    few = files != resource.RLIM_INFINITY and files < FEWEST_FILES
    name, title = "limit.files", "open files"
    return [
        broken(name, title, said, f"raise it before the services start: ulimit -n {FEWEST_FILES}", **values)
        if few
        else ok(name, title, said, **values),
        ok(
            "limit.locked_memory",
            "locked memory",
            "no limit"
            if locked == resource.RLIM_INFINITY
            else f"{locked / MIB:.0f} MiB; NCCL over InfiniBand needs more",
            soft=_limit(locked),
        ),
    ]


def _package(name: str, mend: str) -> Finding:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return not_here(f"package.{name}", name, "not installed", mend, version=None)
    return ok(f"package.{name}", name, version, version=version)


def _cpu_quota() -> float | None:
    """Cores' worth of time that the control group (v2) grants, None without a limit."""
    quota, _, period = _text(CPU_QUOTA).partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.strip().isdigit() else None


def _limit(value: int) -> int | None:
    return None if value == resource.RLIM_INFINITY else value


def _inode(path: Path) -> str:
    try:
        return str(path.stat().st_ino)
    except OSError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def version_of(findings: Iterable[Finding], package: str) -> str | None:
    """The package's version among these findings, None when it is not installed."""
    versions = (found.values.get("version") for found in findings if found.name == f"package.{package}")
    return next((str(version) for version in versions if version), None)
