import json

import pytest

from common import signing
from common.errors import SignatureError
from common.signing import SigningKey, canonical, fingerprint, read_document, sign_document, verify

KEY, OTHER = SigningKey.from_bytes(bytes(range(32))), SigningKey.generate()
CONTENT = {"b": 1, "a": ["é", 2.5, None, {"y": 1, "x": 2}]}


def test_a_key_comes_back_from_its_bytes() -> None:
    again = SigningKey.from_bytes(OTHER.to_bytes())
    assert again.public == OTHER.public
    assert again.sign("p", b"c") == OTHER.sign("p", b"c")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(SignatureError, match=f"32 bytes, not {size}"):
        SigningKey.from_bytes(bytes(size))


def test_a_key_is_never_printed() -> None:
    for text in (repr(KEY), str(KEY), f"{KEY}"):
        assert KEY.to_bytes().hex() not in text
        assert fingerprint(KEY.public) in text


def test_signatures_are_those_of_the_standard() -> None:
    """RFC 8032, section 7.1, test 1: the empty message; and our message is the purpose, a zero byte, the content."""
    secret = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    key = SigningKey.from_bytes(secret)
    assert key.public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    standard = bytes.fromhex(
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b"
    )
    with pytest.raises(SignatureError):  # so a signature made elsewhere is not one of ours
        verify(key.public, "", b"", standard)
    assert key._key.sign(b"") == standard
    assert key.sign("release", b"content") == key._key.sign(b"plgl release\0content")


def test_a_signature_is_good_for_one_purpose_one_content_and_one_key() -> None:
    signature = KEY.sign("release", b"content")
    verify(KEY.public, "release", b"content", signature)
    for public, purpose, content, made in [
        (KEY.public, "leave", b"content", signature),
        (KEY.public, "release", b"contents", signature),
        (KEY.public, "releas", b"e\0content", signature),
        (OTHER.public, "release", b"content", signature),
        (KEY.public, "release", b"content", bytes(64)),
        (KEY.public, "release", b"content", signature[:-1]),
        (KEY.public[:-1], "release", b"content", signature),
    ]:
        with pytest.raises(SignatureError, match="is not signed by"):
            verify(public, purpose, content, made)


def test_the_same_values_are_the_same_bytes() -> None:
    turned = {"a": ["é", 2.5, None, {"x": 2, "y": 1}], "b": 1}
    assert canonical(CONTENT) == canonical(turned) == b'{"a":["\\u00e9",2.5,null,{"x":2,"y":1}],"b":1}'


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_has_no_canonical_form(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical([value])


def test_a_document_comes_back_for_its_purpose_and_key_only() -> None:
    raw = sign_document(CONTENT, KEY, "release")
    assert read_document(raw, KEY.public, "release") == CONTENT
    for public, purpose in [(KEY.public, "federation"), (OTHER.public, "release")]:
        with pytest.raises(SignatureError, match=f"the {purpose} is not signed by"):
            read_document(raw, public, purpose)


def altered() -> list[bytes]:
    raw = sign_document(CONTENT, KEY, "release")
    values = json.loads(raw)
    return [
        raw[:-1],
        raw[:-5],
        raw + b"\n",
        b" " + raw,
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        raw.replace(b'"b":1', b'"b":2'),
        raw.replace(b'"b":1', b'"b":1.0'),
        raw.replace(b'"b":1', b'"b":1,"b":1'),
        raw.replace(b"\\u00e9", "é".encode()),
        canonical({**values, "more": 1}) + b"\n",
        canonical({"content": values["content"]}) + b"\n",
        canonical({**values, "content": [CONTENT]}) + b"\n",
        canonical({**values, "signature": values["signature"].upper()}) + b"\n",
        canonical({**values, "signature": 5}) + b"\n",
        canonical({**values, "signature": "zz"}) + b"\n",
        json.dumps(values).encode() + b"\n",
        b'{"content":{"a":NaN},"signature":""}\n',
    ]


@pytest.mark.parametrize("place", range(len(altered())))
def test_any_other_bytes_are_refused(place: int) -> None:
    with pytest.raises(SignatureError, match=r"no signed release|is not signed by"):
        read_document(altered()[place], KEY.public, "release")


@pytest.mark.parametrize("opening", [b"[", b'{"content":'])
def test_deep_nesting_is_refused(opening: bytes) -> None:
    with pytest.raises(SignatureError, match="no signed release"):
        read_document(opening * 200_000, KEY.public, "release")


def test_an_oversize_document_is_not_even_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "LARGEST_DOCUMENT", 50)
    raw = sign_document(CONTENT, KEY, "release")
    with pytest.raises(SignatureError, match=f"of {len(raw)} bytes is over the limit of 50"):
        read_document(raw, KEY.public, "release")
