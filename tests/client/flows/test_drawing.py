"""Shapes in a terminal and as plots."""

import re

import pytest
import torch

from client.flows.drawing import REACH, braille, draw
from client.flows.judge import judge
from client.flows.plots import as_png, share_figure, sheet
from client.flows.shapes import KINDS, ShapeSettings, shapes_of
from common.errors import SettingError

CLOUDS = shapes_of(torch.tensor([0, 1]), ShapeSettings(), torch.Generator().manual_seed(0))


def test_every_line_is_as_wide_as_asked() -> None:
    drawing = draw(CLOUDS, judge(CLOUDS))
    for depth in (None, "256", "24-bit"):
        lines = braille(drawing.places[0], drawing.colours[0], 21, depth)
        assert len(lines) == 11
        assert {len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in lines} == {21}
        assert ("\x1b[38;" in "".join(lines)) is (depth is not None)


def test_dots_are_where_the_points_are() -> None:
    corner = torch.tensor([[-REACH + 1e-3, REACH - 1e-3], [REACH - 1e-3, 1e-3 - REACH], [5.0, 0.0]])
    lines = braille(corner, torch.ones(3, 3), 4, None)
    assert lines == ["\u2801   ", "   \u2880"]


def test_shapes_fit_into_the_view_and_are_named() -> None:
    largest = ShapeSettings(smallest=1.15)
    clouds = shapes_of(torch.tensor([0, 1] * 50), largest, torch.Generator().manual_seed(1))
    drawing = draw(clouds, judge(clouds))
    assert float(drawing.places.abs().max()) < REACH
    assert set(drawing.captions) == set(KINDS)
    assert 0 <= float(drawing.depth.min()) <= float(drawing.depth.max()) <= 1


def test_what_is_no_shape_is_grey() -> None:
    noise = torch.randn(1, 64, 3, generator=torch.Generator().manual_seed(0))
    drawing = draw(noise, judge(noise))
    assert drawing.captions == ("neither",)
    assert torch.equal(drawing.colours[0], drawing.colours[0, :1].expand(64, 3))


def test_no_column_is_refused() -> None:
    with pytest.raises(SettingError):
        braille(torch.zeros(1, 2), torch.zeros(1, 3), 0, None)


def test_plots_are_the_same_bytes_each_time() -> None:
    drawing = draw(CLOUDS, judge(CLOUDS))
    a, b = (as_png(sheet([("A", drawing), ("B", drawing)], "title", picked=1)) for _ in range(2))
    assert a == b
    assert a.startswith(b"\x89PNG")
    rows = [
        {"arm": arm, "seed": 0, "injections": count, "share": 0.2 + 0.1 * count * (arm == "picked")}
        for arm in ("picked", "control")
        for count in range(3)
    ]
    both, alone = as_png(share_figure(rows, "S-curve")), as_png(share_figure(rows[:3], "S-curve"))
    assert both != alone
