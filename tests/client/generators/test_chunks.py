"""Memory really runs out here: the address space of the process is limited while a network with a large middle runs."""

import contextlib
import gc
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from onnx import TensorProto, helper

from client.generators.chunks import in_chunks
from client.generators.onnx import OnnxModel
from common.errors import OutOfMemory

MIB = 1 << 20
WIDTH = 32 * MIB  # numbers in the middle: 128 MiB an item


def through(width: int) -> OnnxModel:
    """``(n, 1)`` to ``(n, 1)``: each number times 1.5, by way of ``(n, width)``."""
    row = helper.make_tensor("row", TensorProto.FLOAT, [1], [1.5])
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1, width])
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["weights"], value=row),
        helper.make_node("Mul", ["latent", "weights"], ["middle"]),
        helper.make_node("ReduceMax", ["middle"], ["media"], axes=[1], keepdims=1),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]) for name in ("latent", "media")]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return OnnxModel(model.SerializeToString(), "wide", torch.device("cpu"))


@pytest.fixture
def wide() -> OnnxModel:
    return through(WIDTH)


@contextlib.contextmanager
def memory_left(mib: int) -> Iterator[None]:
    gc.collect()  # what is freed later would be left too
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + mib * MIB, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_chunk_that_does_not_fit_halves_until_it_does(wide: OnnxModel, capfd: pytest.CaptureFixture[str]) -> None:
    latents, media, sizes = torch.arange(1.0, 6)[:, None], torch.zeros(5, 1), []

    def work(rows: slice) -> None:
        sizes.append(rows.stop - rows.start)
        wide.run(media[rows], latent=latents[rows])

    with memory_left(400):
        fitted = in_chunks(len(latents), 4, work)
    assert sizes[0] == 4
    assert fitted < 4
    assert sizes[-1] <= fitted
    torch.testing.assert_close(media, 1.5 * latents)
    assert not "".join(capfd.readouterr())


def test_where_not_even_one_fits_the_message_says_what_to_do() -> None:
    wider = through(8 * WIDTH)  # 1 GiB an item: more than other tests of this process may give back meanwhile
    with memory_left(40), pytest.raises(OutOfMemory, match="does not hold one item; choose a smaller size"):
        in_chunks(4, 4, lambda rows: void(wider.run(latent=torch.ones(rows.stop - rows.start, 1))))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def broken(rows: slice) -> None:
        raise ValueError("something else")

    with pytest.raises(ValueError, match="something else"):
        in_chunks(4, 4, broken)


def test_progress_counts_items_that_are_done() -> None:
    seen: list[int] = []
    assert in_chunks(7, 3, void, seen.append) == 3
    assert seen == [3, 6, 7]
    assert in_chunks(0, 3, void, seen.append) == 3


def void(_: object) -> None:
    pass
