"""The child process of `sandbox.py`: looks at one foreign file under limits, and says what it found as JSON.

Started as ``python -I sandbox_child.py ROOT TASK``; the folder it runs in holds its inputs and takes its answer.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

FILE, PLAN, ANSWER, TENSORS = "file", "plan.json", "answer.json", "tensors.safetensors"


def limit(memory: int, seconds: float, written: int) -> str:
    """Put limits on this process from here on; says in words which ones the system keeps.

    Args:
        memory: bytes of address space beyond what is in use now.
        seconds: of time, and of processor time of all threads together.
        written: bytes of the largest file it may write.
    """
    try:
        import resource
    except ImportError:  # Windows
        return f"{seconds:g} s; this system limits no memory of a process, so shapes alone bound it"
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever library it is in
    signal.setitimer(signal.ITIMER_REAL, seconds)
    spent = math.ceil(time.process_time())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (written, written))
    resource.setrlimit(resource.RLIMIT_CPU, (spent + math.ceil(seconds), spent + math.ceil(seconds) + 1))
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        cap = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (cap, cap))
    except (OSError, ValueError):  # macOS knows the name and keeps it not
        return f"{seconds:g} s; this system limits no memory of a process, so shapes alone bound it"
    return f"{memory >> 20} MiB, {seconds:g} s"


def look(plan: dict[str, Any], content: bytes, rules: Any) -> dict[str, Any]:
    """Check the rules that need no shapes; describe inputs and outputs."""
    model = rules.parse(content)
    rules.check_weights(model)
    described = {
        name: [{"name": e.name, "type": e.type.tensor_type.elem_type, "sides": rules.sides(e)} for e in entries]
        for name, entries in (("inputs", rules.needed_inputs(model)), ("outputs", model.graph.output))
    }
    return {**described, "opset": rules.opset_of(model), "operators": rules.operators(model)}


def first_run(plan: dict[str, Any], content: bytes, rules: Any, onnxruntime: Any) -> dict[str, Any]:
    """Check all rules, then run the network twice on the batch in the folder and once on its first item."""
    import numpy as np

    about = look(plan, content, rules)
    inputs = {name: np.load(f"{i}.npy", allow_pickle=False) for i, name in enumerate(plan["inputs"])}
    named = [entry["name"] for entry in about["inputs"]]
    if named != list(inputs):
        raise rules.RefusedShape(f"takes {', '.join(named) or 'nothing'}, and should take {', '.join(inputs)}")
    if len(about["outputs"]) != 1:
        raise rules.RefusedShape(f"gives {len(about['outputs'])} results, and should give one")
    shapes = {name: value.shape for name, value in inputs.items()}
    about["largest_bytes"] = rules.check_shapes(rules.parse(content), shapes, plan["largest_bytes"])
    session = _session(content, onnxruntime)
    first, second = session.run(None, inputs)[0], session.run(None, inputs)[0]
    alone = session.run(None, {k: v[:1] if k in plan["batched"] else v for k, v in inputs.items()})[0]
    return about | _seen(first, second, alone)


def first_build(plan: dict[str, Any], content: bytes, networks: Any) -> dict[str, Any]:
    """Build a torch network, then run it twice on the batch in the folder and once on its first item."""
    import numpy as np
    import torch

    recipe = networks.Recipe.decode(plan["network"].encode())
    network = networks.build(recipe, content)
    inputs = {name: torch.from_numpy(np.load(f"{i}.npy", allow_pickle=False)) for i, name in enumerate(plan["inputs"])}
    one = {name: value[:1] if name in plan["batched"] else value for name, value in inputs.items()}
    with torch.no_grad():
        first, second, alone = (network(*given.values()).numpy() for given in (inputs, inputs, one))
    held = network.state_dict().values()
    about = {"builder": recipe.builder, "tensors": len(held), "numbers": sum(value.numel() for value in held)}
    return about | _seen(first, second, alone)


def _seen(first: Any, second: Any, alone: Any) -> dict[str, Any]:
    """What the results of a batch, of the same again and of its first item alone show."""
    import numpy as np

    finite = bool(np.isfinite(first).all())
    about = {"shape": list(first.shape), "type": str(first.dtype), "finite": finite}
    about |= {"low": float(first.min()) if finite else None, "high": float(first.max()) if finite else None}
    about["repeats"] = first.shape == second.shape and first.tobytes() == second.tobytes()
    about["alone_error"] = _difference(first[:1], alone) if finite and alone.shape == first[:1].shape else None
    about["sha256"] = hashlib.sha256(first.tobytes()).hexdigest()
    return about


def read_tensors(plan: dict[str, Any], torch: Any, save: Any) -> dict[str, Any]:
    """Read a state dict without running code of the file, and write its tensors as safetensors."""
    try:
        loaded = torch.load(FILE, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError) as error:  # its advice is to run the file, which is no advice
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = f"asks for {named[1]}, which is not run" if named else "is no checkpoint, cut short or encrypted"
        raise ValueError(f"it {why}; save generator.state_dict() alone") from error
    found = dict(_named(loaded, torch, ""))
    whole: dict[str, Any] = {}
    for name, tensor in found.items():
        if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"stores {name[:60]!r} of shape {tuple(tensor.shape)} in fewer bytes than that takes")
        whole[name] = tensor.detach().clone().contiguous()
    if not whole:
        raise ValueError("holds no tensors by name; save generator.state_dict() alone")
    save(whole, TENSORS)
    return {"tensors": len(whole)}


def _named(value: Any, torch: Any, prefix: str, depth: int = 0) -> Any:
    """Names and tensors of nested dictionaries, joined by ``/``."""
    if isinstance(value, torch.Tensor):
        yield prefix or "tensor", value
    elif isinstance(value, dict) and depth < 8:
        for key, entry in value.items():
            yield from _named(entry, torch, f"{prefix}/{key}" if prefix else str(key), depth + 1)


def _session(content: bytes, onnxruntime: Any) -> Any:
    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _difference(whole: Any, alone: Any) -> float:
    """Largest difference relative to the largest value."""
    return float(abs(whole - alone).max()) / max(float(abs(whole).max()), 1e-12)


def main() -> None:
    """Do one task; the answer file says ``{"found": ...}`` or ``{"refused": why}``."""
    sys.path.insert(0, sys.argv[1])
    task = sys.argv[2]
    plan = json.loads(Path(PLAN).read_text("utf-8"))
    rules: Any = None
    networks: Any = None
    if task == "tensors":
        import torch
        from safetensors.torch import save_file
    elif task == "build":
        from client.generators import torch_network as networks

        networks.ready(networks.Recipe.decode(plan["network"].encode()))
    else:
        from client.generators import onnx_rules as rules
    if task == "run":
        import onnxruntime  # type: ignore[import-untyped]
    limits = limit(plan["memory"], plan["seconds"], plan["written"])
    try:
        if task == "tensors":
            found = read_tensors(plan, torch, save_file)
        elif task == "build":
            found = first_build(plan, Path(FILE).read_bytes(), networks)
        elif task == "look":
            found = look(plan, Path(FILE).read_bytes(), rules)
        else:
            found = first_run(plan, Path(FILE).read_bytes(), rules, onnxruntime)
        answer: dict[str, Any] = {"found": found | {"limits": limits}}
    except MemoryError:
        answer = {"memory": limits}
    except Exception as error:  # whatever a foreign file brings about is a reason to refuse it
        words = str(error)
        short = "bad_alloc" in words or "bad allocation" in words or "Failed to allocate" in words or "memory" in words
        first_line = (words.strip() or type(error).__name__).splitlines()[0][:500]
        kind = "run"
        if rules is not None and isinstance(error, rules.Refused):
            kind = "shape" if isinstance(error, rules.RefusedShape) else "rule"
        if networks is not None and isinstance(error, networks.DamagedPack):
            kind = "shape" if isinstance(error, networks.WrongWeights) else "rule"
        answer = {"memory": limits} if short and kind == "run" else {"refused": first_line, "kind": kind}
    Path(ANSWER).write_text(json.dumps(answer), "utf-8")


if __name__ == "__main__":
    main()
