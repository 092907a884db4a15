"""Which FAISS is installed. Its CPU and GPU builds are one module and overwrite each other."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable

from fromage_index.errors import FaissInstallation


def check(installed: Iterable[str] | None = None) -> None:
    """Raises FaissInstallation unless exactly one build is there.

    `installed` are distribution names, those of this environment where None.
    """
    names = _distributions() if installed is None else installed
    builds = sorted({name.lower().replace("_", "-") for name in names})
    builds = [
        name for name in builds if name == "faiss" or name.startswith(("faiss-cpu", "faiss-gpu"))
    ]
    if len(builds) > 1:
        raise FaissInstallation(
            f"{' and '.join(builds)} are installed together: they overwrite each other's files and "
            f"the CPU build silently wins. Run `pip uninstall -y {' '.join(builds)}`, then install "
            "exactly one of fromage-server[cpu] and fromage-server[gpu]"
        )
    if not builds and (installed is not None or importlib.util.find_spec("faiss") is None):
        raise FaissInstallation(
            "FAISS is not installed: install fromage-server[cpu], or fromage-server[gpu] on a "
            "machine with CUDA"
        )


def nearest_device(wanted: str) -> str:
    """``wanted`` ("cpu", "cuda" or "cuda:N") where this FAISS can, else "cpu"."""
    import faiss

    if wanted == "cpu" or not hasattr(faiss, "StandardGpuResources"):
        return "cpu"
    return wanted if int(wanted.partition(":")[2] or 0) < faiss.get_num_gpus() else "cpu"


def _distributions() -> list[str]:
    return [
        distribution.metadata["Name"] or "" for distribution in importlib.metadata.distributions()
    ]
