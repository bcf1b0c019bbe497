"""Items a second through a pack, beside bare ONNX Runtime and the same network in eager torch.

    PYTHONPATH=. python tests/benchmarks/generator_speed.py
    PYTHONPATH=. python tests/benchmarks/generator_speed.py --device cuda --items 1 16 128

The weights are random, which costs the same as trained ones. All three draw the same latents in the same chunks, in
turn, and what they draw is compared first. On a CPU a second is one of processor time, of all threads together, so that
other work on the machine and the number of threads do not count; on a GPU it is one of the clock. Ratios are taken
within a repetition. ``overhead`` is what our layer takes beyond bare ONNX Runtime: checks, chunks, one result of all.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import torch
from torch import Tensor

from client.generators.art import ArtGenerator, pixel_grid
from client.generators.importers.base import ImportSettings, make
from client.generators.importers.registry import importer_of
from client.generators.onnx import OnnxModel
from client.generators.pack import GeneratorPack
from client.generators.sandbox import Limits
from client.generators.speed import SpeedSettings
from tests.client.generators.importers import stylegan_files
from tests.client.generators.importers.gan_networks import official_dcgan

Network = Callable[[Tensor], Tensor]
CASES = ("art-128", "art-256", "dcgan-64", "stylegan2-64", "stylegan2-128", "stylegan2-256")


def case(name: str, channels: int, speed: SpeedSettings) -> tuple[GeneratorPack, Network, int | None]:
    """A pack, the same network as a torch function, and the size to draw at."""
    kind, _, side = name.partition("-")
    if kind == "art":
        pack, module, grid = GeneratorPack.open("art").tuned(speed), ArtGenerator().eval(), pixel_grid(int(side))
        device = pack.generator.device
        module, grid = module.to(device), grid.to(device)
        return pack, lambda latents: module(latents, grid), int(side)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        if kind == "dcgan":
            torch.save(official_dcgan(latent=100, width=64).state_dict(), path)
        else:
            stylegan_files.write(path, stylegan_files.stylegan2(0, side=int(side), z=512, w=512, channels=channels))
        record = importer_of("dcgan" if kind == "dcgan" else "stylegan").read(path, ImportSettings())
    made = make(record, name=kind, limits=Limits(seconds=300))
    pack = GeneratorPack(Path(), made.manifest, made.files, proven=True).tuned(speed)
    network, device = record.network.to(pack.generator.device), pack.generator.device
    others = [] if made.manifest.truncation is None else [torch.tensor([made.manifest.truncation], device=device)]
    return pack, lambda latents: network(latents, *others), None


def bare(pack: GeneratorPack, latents: Tensor, size: int | None, chunk: int) -> Callable[[], Any]:
    """ONNX Runtime alone: fed with NumPy on a CPU, with bound buffers on a GPU; the items of a chunk are dropped."""
    assert isinstance(pack.generator, OnnxModel)
    session, inputs = pack.generator.session, {}
    if size is not None:
        inputs["grid"] = pixel_grid(size)
    if pack.manifest.truncation is not None:
        inputs["truncation"] = torch.tensor([pack.manifest.truncation])
    parts = torch.split(latents, chunk)
    if latents.is_cuda:
        return lambda: [_bound(session, {"latent": part, **{k: v.cuda() for k, v in inputs.items()}}) for part in parts]
    fed = [{"latent": part.numpy(), **{k: v.numpy() for k, v in inputs.items()}} for part in parts]
    return lambda: [session.run(None, each)[0] for each in fed]


def _bound(session: Any, inputs: dict[str, Tensor]) -> Any:
    binding = session.io_binding()
    for name, tensor in inputs.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.from_dlpack(tensor.contiguous()))
    binding.bind_output(session.get_outputs()[0].name, "cuda", 0)
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
    return binding.get_outputs()[0]


@torch.inference_mode()
def eager(network: Network, latents: Tensor, chunk: int) -> Tensor:
    """The network in torch, chunk by chunk."""
    return torch.cat([network(part) for part in torch.split(latents, chunk)])


def seconds(work: Callable[[], Any], cuda: bool) -> float:
    clock = time.perf_counter if cuda else time.process_time
    begun = clock()
    work()
    if cuda:
        torch.cuda.synchronize()
    return clock() - begun


def rows(name: str, counts: list[int], repeats: int, channels: int, speed: SpeedSettings) -> Iterator[str]:
    pack, network, size = case(name, channels, speed)
    device = pack.generator.device
    shape = pack.manifest.output.shape if size is None else (3, size, size)
    for count in counts:
        latents = pack.latents.sample(count, torch.Generator().manual_seed(0)).to(device)
        chunk = max(1, min(count, 3 * (1 << (22 if device.type == "cuda" else 17)) // int(np.prod(shape))))
        contenders: dict[str, Callable[[], Any]] = {
            "pack": partial(pack.generate, latents, size),
            "bare": bare(pack, latents, size, chunk),
            "eager": partial(eager, network, latents, chunk),
        }
        apart = float((pack.generate(latents[:4], size) - eager(network, latents[:4], chunk)).abs().max())
        times: dict[str, list[float]] = {each: [] for each in contenders}
        for repeat in range(repeats + 1):
            order = list(contenders)[repeat % 3 :] + list(contenders)[: repeat % 3]
            for each in order:
                took = seconds(contenders[each], device.type == "cuda")
                if repeat:  # the first one warms up
                    times[each].append(took)
        speeds = [f"{count / min(times[each]):10.1f}" for each in contenders]
        faster = statistics.median(e / p for e, p in zip(times["eager"], times["pack"], strict=True))
        over = statistics.median(p / b for p, b in zip(times["pack"], times["bare"], strict=True)) - 1
        yield f"{name:15}{count:6}{chunk:7}{''.join(speeds)}{faster:10.2f}{100 * over:9.1f} %{apart:11.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--items", nargs="+", type=int, default=[100])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--channels", type=int, default=64, help="of StyleGAN2 below 32 pixels; half as many above")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--half", action="store_true", help="float16 where that is safe, on a GPU")
    given = parser.parse_args()
    torch.set_num_threads(1)  # its threads wait in loops, which would count
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    print(f"{given.device}, torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}; items a second")
    print(f"{'network':15}{'items':>6}{'chunk':>7}{'pack':>10}{'bare':>10}{'eager':>10}{'x eager':>10}", end="")
    print(f"{'overhead':>11}{'apart':>11}")
    for name in given.cases:
        speed = SpeedSettings(device=given.device, half=given.half)
        for row in rows(name, given.items, given.repeats, given.channels, speed):
            print(row, flush=True)


if __name__ == "__main__":
    main()
