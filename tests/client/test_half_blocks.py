import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from client.half_blocks import RESET, Depth, beside, colour_depth, half_blocks
from common.errors import SettingError

GOLDEN = Path(__file__).parents[1] / "golden" / "terminal-half-blocks.txt"
LEVELS = (0, 95, 135, 175, 215, 255)
XTERM = {
    **{
        16 + 36 * r + 6 * g + b: (LEVELS[r], LEVELS[g], LEVELS[b]) for r in range(6) for g in range(6) for b in range(6)
    },
    **{232 + i: (8 + 10 * i,) * 3 for i in range(24)},
}


def pixels(lines: list[str]) -> list[list[tuple[int, ...]]]:
    """What a terminal shows: the colours of each line's upper and lower pixels, read from the escape sequences."""
    found = []
    for line in lines:
        ink: tuple[int, ...] = ()
        paper: tuple[int, ...] = ()
        upper, lower = [], []
        for codes, text in re.findall(r"(?:\x1b\[([0-9;]*)m)?([^\x1b]*)", line):
            numbers = [int(number) for number in codes.split(";") if number]
            while numbers:
                place, kind = numbers.pop(0), numbers.pop(0) if len(numbers) > 1 else 0
                if kind == 0:
                    break
                colour = tuple(numbers[:3]) if kind == 2 else XTERM[numbers[0]]
                del numbers[: 3 if kind == 2 else 1]
                ink, paper = (colour, paper) if place == 38 else (ink, colour)
            upper += [ink] * text.count("▀")
            lower += [paper] * text.count("▀")
        found += [upper, lower]
    return found


def picture(*rows: list[tuple[int, int, int]]) -> Tensor:
    """``(3, h, w)`` from colours of 0 to 255."""
    return torch.tensor(rows, dtype=torch.float32).permute(2, 0, 1) / 127.5 - 1


def test_each_character_shows_the_two_pixels_it_stands_for() -> None:
    colours = [[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (12, 34, 56)]]
    assert pixels(half_blocks(picture(*colours), 2)) == colours


def test_a_smaller_drawing_shows_the_mean_of_what_a_pixel_covers() -> None:
    big = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    means = big.reshape(3, 4, 2, 4, 2).mean((2, 4))
    expected = ((means + 1) * 127.5).round().int().permute(1, 2, 0).tolist()
    assert pixels(half_blocks(big, 4)) == [[tuple(colour) for colour in row] for row in expected]


@given(
    columns=st.integers(1, 40),
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    depth=st.sampled_from(["24-bit", "256"]),
)
@settings(max_examples=40, deadline=None)
def test_every_line_has_its_width_and_leaves_no_colour_behind(
    columns: int, height: int, width: int, depth: Depth
) -> None:
    lines = half_blocks(torch.linspace(-2, 2, 3 * height * width).reshape(3, height, width), columns, depth)
    assert len(lines) == max(1, -(-columns * height // (2 * width)))
    assert {len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in lines} == {columns}
    assert all(line.endswith(RESET) for line in lines)


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=4, max_size=4))
@settings(max_examples=60, deadline=None)
def test_of_256_colours_the_nearest_of_cube_and_greys_is_taken(colours: list[tuple[int, int, int]]) -> None:
    shown = pixels(half_blocks(picture(colours[:2], colours[2:]), 2, "256"))
    for wanted, found in zip(colours, shown[0] + shown[1], strict=True):
        assert distance(wanted, found) == min(distance(wanted, each) for each in XTERM.values())


def distance(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("number", [16, 21, 46, 196, 226, 231, 240])
def test_a_colour_of_the_256_is_drawn_as_itself(number: int) -> None:
    colour = XTERM[number]
    one = [(colour[0], colour[1], colour[2])]
    assert pixels(half_blocks(picture(one, one), 1, "256")) == [one, one]


def test_what_is_no_picture_is_refused() -> None:
    for shape in ((1, 4, 4), (3, 4), (3, 0, 4)):
        with pytest.raises(SettingError, match="shape"):
            half_blocks(torch.zeros(shape), 4)
    with pytest.raises(SettingError, match="NaN"):
        half_blocks(torch.full((3, 4, 4), float("nan")), 4)
    with pytest.raises(SettingError, match="columns=0"):
        half_blocks(torch.zeros(3, 4, 4), 0)


def test_drawings_stand_side_by_side() -> None:
    assert beside([["a", "b"], ["c", "d"]], 2) == ["a  c", "b  d"]
    with pytest.raises(ValueError, match="shorter"):
        beside([["a", "b"], ["c"]], 2)


@pytest.mark.parametrize(
    ("environment", "depth"),
    [
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, "24-bit"),
        ({"TERM": "xterm-kitty"}, "24-bit"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, "256"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "vscode"}, "24-bit"),
        ({"TERM": "screen"}, "256"),
        ({"WT_SESSION": "1"}, "24-bit"),
        ({"TERM": "dumb", "COLORTERM": "truecolor"}, None),
        ({"TERM": "vt100"}, None),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor", "NO_COLOR": "1"}, None),
        ({"TERM": "xterm-256color", "NO_COLOR": ""}, "256"),
        ({}, None),
    ],
)
def test_colours_follow_what_the_terminal_says_of_itself(environment: dict[str, str], depth: Depth | None) -> None:
    assert colour_depth(environment, True) == depth
    assert colour_depth(environment, False) is None


def test_a_drawing_is_byte_for_byte_the_one_kept() -> None:
    """Delete the file to have it written anew, and look at it with ``cat``."""
    across = torch.linspace(-1, 1, 16).expand(16, 16)
    wheel = torch.stack([across, across.T, -across])
    drawn = "\n".join(half_blocks(wheel, 16) + half_blocks(wheel, 16, "256")) + "\n"
    if not GOLDEN.exists():
        GOLDEN.write_text(drawn, "utf-8", newline="\n")
        pytest.fail(f"{GOLDEN} was missing and is written anew")
    assert GOLDEN.read_text("utf-8") == drawn
