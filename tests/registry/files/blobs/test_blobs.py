"""Names of blobs; how they are stored and found again is shown in test_artifacts."""

import pytest

from registry.errors import ArtifactMissing
from registry.files.blobs.blobs import digest_at, key_of

DIGITS = "ab" + "0" * 62


def test_a_digest_is_a_path_of_three_parts() -> None:
    assert key_of(f"sha256:{DIGITS}") == ("sha256", "ab", DIGITS)


@pytest.mark.parametrize(
    "digest",
    ["", DIGITS, f"md5:{DIGITS}", f"sha256:{DIGITS[1:]}", f"sha256:{DIGITS}0", f"sha256:{DIGITS.upper()}",
     f"sha256:../../{'0' * 58}", f"sha256:{DIGITS}\n"],
)  # fmt: skip
def test_nothing_else_becomes_a_path(digest: str) -> None:
    with pytest.raises(ArtifactMissing, match="is no digest"):
        key_of(digest)


def test_a_path_is_that_of_a_digest_wherever_the_store_lies() -> None:
    assert digest_at(f"bucket/zoo/sha256/ab/{DIGITS}") == f"sha256:{DIGITS}"
    assert digest_at(f"sha256/ab/{DIGITS}") == f"sha256:{DIGITS}"


@pytest.mark.parametrize(
    "key", ["", DIGITS, f"sha256/ff/{DIGITS}", f"sha256/ab/{DIGITS[1:]}", f"ab/{DIGITS}"]
)
def test_no_other_path_is_taken_for_a_digest(key: str) -> None:
    assert digest_at(key) is None
