from __future__ import annotations

import pytest

from fromage_index import faiss_build
from fromage_index.errors import FaissInstallation
from fromage_index.flat import FlatIndex
from tests.index.pictures import unit_rows


def test_this_environment_has_one() -> None:
    faiss_build.check()


@pytest.mark.parametrize("other", ["faiss-gpu", "faiss_gpu", "faiss-gpu-cuvs", "Faiss-GPU-cu12"])
def test_two_builds_at_once(other: str) -> None:
    with pytest.raises(FaissInstallation, match=r"pip uninstall -y faiss-cpu faiss-gpu"):
        faiss_build.check(["numpy", "faiss-cpu", other])


def test_no_build() -> None:
    with pytest.raises(FaissInstallation, match=r"fromage-server\[cpu\]"):
        faiss_build.check(["numpy", "torch"])


def test_a_gpu_that_is_not_there() -> None:
    import faiss

    if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0:
        pytest.skip("this machine has a GPU and FAISS can use it")
    with pytest.raises(FaissInstallation, match="GPU"):
        FlatIndex(4, [unit_rows(3, 4)], "cuda")


@pytest.mark.gpu
def test_the_gpu_ranks_as_the_cpu_does() -> None:
    import faiss

    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        pytest.skip("FAISS has no GPU support here, or there is no GPU")
    rows, queries = unit_rows(5000, 32), unit_rows(40, 32, seed=1)
    gpu = FlatIndex(32, [rows], "cuda")
    cpu = FlatIndex(32, [rows], "cpu")
    assert gpu.on_gpu
    found, expected = gpu.search(queries, 20), cpu.search(queries, 20)
    assert (found[1] == expected[1]).mean() > 0.99
    assert abs(found[0] - expected[0]).max() < 1e-4
