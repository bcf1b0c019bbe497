from dataclasses import replace
from pathlib import Path

import pytest

from client.generators.installed import HOME, InstalledPacks, generators_folder
from client.generators.manifest import MANIFEST, Manifest
from client.generators.pack import PACKS, GeneratorPack
from client.generators.pack_files import read_manifest
from client.generators.pack_signature import load_or_make_key, read_public_key, sign_pack, signer_of
from common.errors import DamagedPack, PackError, SignatureError, StorageError, UnknownGenerator
from common.signing import SigningKey

ALICE, MALLORY = SigningKey.generate(), SigningKey.generate()


@pytest.fixture(scope="module")
def art() -> GeneratorPack:
    return GeneratorPack.open("art")


@pytest.fixture
def installed(tmp_path: Path) -> InstalledPacks:
    return InstalledPacks(tmp_path / "home")


def named(art: GeneratorPack, version: str = "1.0.0", licence: str = "Apache-2.0") -> tuple[Manifest, dict[str, bytes]]:
    manifest = replace(art.manifest, name="mine", version=version, licence=licence)
    return manifest, {**art.files, MANIFEST: manifest.encode()}


def test_an_added_pack_opens_by_name_and_is_remembered_as_checked(
    art: GeneratorPack, installed: InstalledPacks
) -> None:
    manifest, files = named(art)
    folder = installed.install(manifest, files)
    assert installed.names() == ("mine",)
    assert installed.is_proven(manifest)
    assert not installed.is_proven(replace(manifest, licence="MIT"))
    opened = GeneratorPack.open("mine", installed.home)
    assert (opened.folder, opened.manifest) == (folder, manifest)
    assert [path.name for path in installed.home.iterdir() if path.name.startswith(".")] == []


def test_a_shipped_name_comes_first(art: GeneratorPack, installed: InstalledPacks) -> None:
    installed.install(replace(art.manifest, licence="MIT"), {**art.files, MANIFEST: b"{}"})
    assert GeneratorPack.open("art", installed.home).folder == PACKS / "art"


def test_the_environment_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(HOME, str(tmp_path / "there"))
    assert generators_folder() == tmp_path / "there"
    assert generators_folder(tmp_path) == tmp_path
    monkeypatch.delenv(HOME)
    assert generators_folder().name == "generators"


def test_versions_never_go_back_not_even_after_removal(art: GeneratorPack, installed: InstalledPacks) -> None:
    installed.install(*named(art, "1.10.0"))
    with pytest.raises(PackError, match=r"1\.9\.0 is older than 1\.10\.0"):
        installed.install(*named(art, "1.9.0"))
    installed.remove("mine")
    with pytest.raises(PackError, match="is older"):
        installed.install(*named(art, "1.9.0"))
    installed.remove("mine", forget=True)
    installed.install(*named(art, "1.9.0"))
    installed.install(*named(art, "1.11.0"))
    assert read_manifest(installed.folder("mine")).version == "1.11.0"


def test_one_version_is_one_pack(art: GeneratorPack, installed: InstalledPacks) -> None:
    installed.install(*named(art))
    installed.install(*named(art))
    with pytest.raises(PackError, match="higher --version"):
        installed.install(*named(art, licence="MIT"))
    installed.remove("mine")
    installed.install(*named(art, licence="MIT"))  # one's own, made again


def test_a_name_keeps_its_key(art: GeneratorPack, installed: InstalledPacks) -> None:
    installed.install(*named(art), ALICE.public)
    for version, signer in (("1.0.1", MALLORY.public), ("1.0.1", None)):
        with pytest.raises(SignatureError, match="--forget"):
            installed.install(*named(art, version), signer)
    installed.remove("mine")
    with pytest.raises(SignatureError):
        installed.install(*named(art, "2.0.0"), MALLORY.public)
    with pytest.raises(PackError, match="other files"):  # the owner of the key says two things of one version
        installed.install(*named(art, licence="MIT"), ALICE.public)
    installed.install(*named(art, "2.0.0"), ALICE.public)
    installed.remember(named(art, "2.0.0")[0])  # as after learning a map
    assert installed.seen()["mine"].key == ALICE.public.hex()


def test_a_full_disk_leaves_what_was_there(
    art: GeneratorPack, installed: InstalledPacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed.install(*named(art))

    def full(path: Path, content: bytes) -> None:
        raise StorageError("cannot write: no space")

    with monkeypatch.context() as patch:
        patch.setattr("client.generators.installed.write_atomically", full)
        with pytest.raises(StorageError):
            installed.install(*named(art, "2.0.0"))
    assert GeneratorPack.open("mine", installed.home).version == "1.0.0"
    assert sorted(path.name for path in installed.home.iterdir()) == ["mine", "seen.json"]


def test_an_interrupted_replacement_puts_the_old_pack_back(
    art: GeneratorPack, installed: InstalledPacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed.install(*named(art))
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            installed.install(*named(art, "2.0.0"))
    assert GeneratorPack.open("mine", installed.home).version == "1.0.0"


@pytest.mark.parametrize("content", ["", "[]", '{"format": "x", "packs": {}}', '{"packs": {"a": {"version": "1"}}}'])
def test_a_damaged_record_is_not_taken_for_an_empty_one(content: str, installed: InstalledPacks) -> None:
    installed.home.mkdir()
    (installed.home / "seen.json").write_text(content)
    with pytest.raises(DamagedPack, match=r"seen\.json is damaged"):
        installed.seen()


@pytest.mark.parametrize("name", ["nobody", "../outside", "", "."])
def test_only_added_packs_can_be_removed(name: str, installed: InstalledPacks, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / MANIFEST).write_text("{}")
    with pytest.raises(UnknownGenerator, match="no added generator"):
        installed.remove(name)
    assert (tmp_path / "outside" / MANIFEST).exists()


def test_a_record_beside_a_foreign_pack_proves_nothing(art: GeneratorPack, tmp_path: Path) -> None:
    """A pack that comes in an archive with a record of its own is still a stranger."""
    away = InstalledPacks(tmp_path / "archive")
    manifest, files = named(art)
    folder = away.install(manifest, files)
    for opened in (GeneratorPack.open(folder), GeneratorPack.open_without_map(folder)):
        assert opened._proven is False
    assert GeneratorPack.open("mine", away.home)._proven is True


def test_a_signature_names_its_key_and_changes_no_hash(art: GeneratorPack, installed: InstalledPacks) -> None:
    manifest, files = named(art)
    folder = installed.install(manifest, files)
    assert signer_of(folder, manifest) is None
    before = GeneratorPack.open(folder).hash
    sign_pack(folder, ALICE)
    assert GeneratorPack.open(folder).signer == ALICE.public
    assert GeneratorPack.open(folder).hash == before


def test_a_signature_of_something_else_is_refused(art: GeneratorPack, installed: InstalledPacks) -> None:
    folder = installed.install(*named(art))
    sign_pack(folder, ALICE)
    signature = (folder / "signature.json").read_bytes()
    other = named(art, "1.0.1")[0]
    (folder / MANIFEST).write_bytes(other.encode())
    with pytest.raises(SignatureError, match="signs another pack or version"):
        signer_of(folder, other)
    (folder / MANIFEST).write_bytes(named(art)[0].encode())
    assert signer_of(folder, named(art)[0]) == ALICE.public
    swapped = signature.replace(ALICE.public.hex().encode(), MALLORY.public.hex().encode())
    for forged in (swapped, signature[:-9], b"{}", signature.replace(b'"1.0.0"', b'"9.0.0"')):
        (folder / "signature.json").write_bytes(forged)
        with pytest.raises(SignatureError):
            GeneratorPack.open(folder)


def test_a_key_file_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    key, new = load_or_make_key(tmp_path / "key")
    again, other = load_or_make_key(tmp_path / "key")
    assert (new, other) == (True, False)
    assert key.public == again.public == read_public_key(key.public.hex())
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "key").write_text("no key")
    with pytest.raises(SignatureError, match="holds no signing key"):
        load_or_make_key(tmp_path / "key")
    with pytest.raises(StorageError, match="no such folder"):
        load_or_make_key(tmp_path / "none" / "key")
    with pytest.raises(SignatureError, match="64 hexadecimal digits"):
        read_public_key("abc")
