"""A file holds all of a write or what it held before, whatever goes wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import StorageError
from common.files import write_atomically


def test_new_content_replaces_old_content_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "prior.json"
    for content in (b"first", b"", b"second" * 100_000):
        write_atomically(path, content)
        assert path.read_bytes() == content
        assert [file.name for file in tmp_path.iterdir()] == ["prior.json"]


def test_a_missing_folder_is_a_storage_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write .*prior\.json: No such file or directory; free some space"):
        write_atomically(tmp_path / "absent" / "prior.json", b"x")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_place_of_the_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "prior.json").mkdir()
    with pytest.raises(StorageError):
        write_atomically(tmp_path / "prior.json", b"x")
    assert [file.name for file in tmp_path.iterdir()] == ["prior.json"]
    assert (tmp_path / "prior.json").is_dir()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a file")
def test_a_disk_that_refuses_half_way_keeps_the_old_content(tmp_path: Path) -> None:
    """The kernel stops the child's write after 4096 bytes, as a full disk would."""
    path = tmp_path / "prior.json"
    path.write_bytes(b"old")
    child = """
import resource, sys
from pathlib import Path
from common.errors import StorageError
from common.files import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_atomically(Path(sys.argv[1]), b"x" * 100_000)
except StorageError as error:
    print(error)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", child, str(path)], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    assert "cannot write" in done.stdout
    assert "free some space" in done.stdout
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["prior.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of another kind")
def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    write_atomically(tmp_path / "prior.json", b"x")
    assert (tmp_path / "prior.json").stat().st_mode & 0o777 == 0o644
