"""Layers of the voice network against ONNX Runtime and torch's own transforms, with random weights."""

import math

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from client.generators.fetched.kokoro import FRAME, SAMPLE_RATE, alignment
from client.generators.fetched.kokoro_file import KokoroFile
from client.generators.fetched.kokoro_layers import Convolution, Recurrence, Styled
from client.generators.fetched.kokoro_vocoder import Source, Spectrum
from client.generators.onnx import OnnxModel, export
from common.errors import UnreadableModel

INPUTS, HALF, STEPS = 8, 256, 5


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def written() -> KokoroFile:
    """A file with one layer of each kind, named as in the real one; its numbers are random."""
    values = {
        "w_quantized": drawn(6, 4, 3),
        "w_scale": np.float32(0.01),
        "w_zero": np.uint8(120),
        "encoder.predictor.F0.0.conv1.bias": np.arange(6, dtype=np.float32),
        "l_quantized": drawn(128, 8),
        "l_scale": np.float32(0.002),
        "decoder.decoder.encode.norm1.fc.bias": np.linspace(-1, 1, 8, dtype=np.float32),
        "i_quantized": drawn(2, INPUTS, 4 * HALF, seed=1),
        "h_quantized": drawn(2, HALF, 4 * HALF, seed=2),
        "i_scale": np.array([0.002, 0.003], np.float32),
        "h_scale": np.array([0.0005, 0.0004], np.float32),
        "zeros": np.array([128, 126], np.uint8),
        "b": np.random.default_rng(3).normal(size=(2, 8 * HALF)).astype(np.float32) / 4,
    }
    nodes = [
        helper.make_node("ConvInteger", ["x", "w_quantized", "z", "w_zero"], ["a"], "/encoder/F0.0/conv1/Conv_quant"),
        helper.make_node(
            "MatMulInteger", ["x", "l_quantized", "z", "w_zero"], ["c"],
            "/decoder/decoder/encode/norm1/fc/Gemm_MatMul_quant",
        ),
        helper.make_node(
            "DynamicQuantizeLSTM",
            ["x", "i_quantized", "h_quantized", "b", "", "", "", "", "i_scale", "zeros", "h_scale", "zeros"],
            ["d"], "/encoder/shared/LSTM_quant",
        ),
    ]  # fmt: skip
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    return KokoroFile(helper.make_model(helper.make_graph(nodes, "g", [], [], stored)).SerializeToString())


def test_a_recurrence_is_that_of_onnx_in_torch_and_as_it_is_exported() -> None:
    file = written()
    layer = Recurrence(file, "encoder.shared").eval()
    rows = {"W": layer.inputs(), "R": layer.states()}
    stored = [
        numpy_helper.from_array(value.transpose(1, 2).contiguous().numpy(), name) for name, value in rows.items()
    ] + [numpy_helper.from_array(layer.get_buffer("bias").numpy(), "B")]
    node = helper.make_node("LSTM", ["X", "W", "R", "B"], ["Y"], hidden_size=HALF, direction="bidirectional")
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, [STEPS, None, INPUTS])]
    graph = helper.make_graph([node], "g", inputs, [helper.make_empty_tensor_value_info("Y")], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = torch.randn(3, STEPS, INPUTS, generator=torch.Generator().manual_seed(0))
    (wanted,) = session.run(None, {"X": x.transpose(0, 1).numpy()})
    wanted = torch.tensor(wanted).permute(2, 0, 1, 3).flatten(2)
    assert torch.allclose(layer(x), wanted, atol=1e-5)
    exported = OnnxModel(export(layer, {"latent": x[:2]}, "media", {"latent": {0: "n"}}), "lstm")
    assert torch.allclose(exported.run(latent=x), wanted, atol=1e-5)


def test_weights_are_read_from_where_the_exporter_put_them() -> None:
    file = written()
    convolution = Convolution(file, "encoder.predictor.F0.0.conv1")
    weight = (torch.tensor(drawn(6, 4, 3)).float() - 120) * 0.01
    x = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(1))
    wanted = nn.functional.conv1d(x, weight, torch.arange(6.0), padding=1)
    assert torch.allclose(convolution(x), wanted, atol=1e-5)
    assert file.has("encoder.predictor.F0.0.conv1")
    assert not file.has("encoder.predictor.F0.0.conv1x1")


def test_a_style_sets_scale_and_shift_of_what_is_normalised() -> None:
    norm = Styled(written(), "decoder.decoder.encode.norm1")
    generator = torch.Generator().manual_seed(2)
    x, style = 3 + 5 * torch.randn(2, 4, 50, generator=generator), torch.randn(2, 128, generator=generator)
    scale, shift = (style @ ((torch.tensor(drawn(128, 8)).float() - 120) * 0.002) + torch.linspace(-1, 1, 8)).chunk(
        2, 1
    )
    made = norm(x, style)
    assert torch.allclose(made.mean(2), shift, atol=1e-4)
    assert torch.allclose(made.std(2, correction=0), (1 + scale).abs(), atol=1e-3)


OTHER = helper.make_model(helper.make_graph([], "g", [], [])).SerializeToString()


@pytest.mark.parametrize("content", [b"", b"not a model", OTHER], ids=["empty", "text", "another"])
def test_another_file_is_refused(content: bytes) -> None:
    with pytest.raises(UnreadableModel, match=r"voice model .*(fetch it again|another version)"):
        Recurrence(KokoroFile(content), "encoder.shared")


def test_every_frame_has_one_phoneme_and_each_its_share_of_the_time() -> None:
    length = 1 + 9 * torch.rand(40, 12, generator=torch.Generator().manual_seed(3))
    aligned = alignment(length, torch.arange(60) + 0.5)
    assert torch.equal(aligned.sum(1), torch.ones(40, 60))
    which = aligned.argmax(1)
    assert bool((which[:, 1:] >= which[:, :-1]).all())
    share = length / length.sum(1, keepdim=True)
    assert float((aligned.sum(2) - 60 * share).abs().max()) <= 1


def wave(pitch: Tensor) -> Tensor:
    only_the_first = torch.zeros(9, 1)
    only_the_first[0] = 1
    made: Tensor = Source(only_the_first, torch.zeros(1))(pitch)
    return made


def test_the_source_sounds_at_its_pitch_without_clicks_and_is_silent_without_one() -> None:
    frames = 80
    steady = wave(torch.full((1, frames), 220.0))[0]
    assert len(steady) == frames * FRAME // 2
    loudest = int(torch.fft.rfft(steady).abs().argmax()) * SAMPLE_RATE / len(steady)
    assert loudest == pytest.approx(220, abs=SAMPLE_RATE / len(steady))
    gliding = wave(torch.linspace(100, 300, frames)[None])[0]
    steepest = math.tanh(0.1) * 2 * math.pi * 300 / SAMPLE_RATE
    assert float(gliding.diff().abs().max()) < 1.05 * steepest  # a jump of the phase would be many times that
    assert not bool(wave(torch.zeros(1, frames)).any())


def test_a_spectrum_is_that_of_torch() -> None:
    sound = torch.randn(2, 200, generator=torch.Generator().manual_seed(4))
    window = torch.hann_window(20)
    wanted = torch.stft(sound, 20, 5, window=window, center=True, pad_mode="reflect", return_complex=True)
    size, phase = Spectrum()(sound).chunk(2, 1)
    assert torch.allclose(size, wanted.abs(), atol=1e-4)
    turned = (phase - wanted.angle()).abs()
    turned = torch.minimum(turned, 2 * math.pi - turned)
    assert float(turned[wanted.abs() > 0.05].max()) < 1e-3
    assert not bool(Spectrum()(torch.zeros(1, 60))[:, 11:].any())
