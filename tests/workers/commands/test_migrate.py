"""`zoo migrate`, the first step of a deployment."""

import json

import pytest

import zoo
from migrations import HEAD
from registry.settings import Settings


def test_an_empty_database_is_brought_up_to_date_once(
    empty_database_url: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ZOO_HOME", str(settings.home))
    monkeypatch.setenv("ZOO_DATABASE_URL", empty_database_url)
    for before in (None, HEAD):
        with pytest.raises(SystemExit) as ended:
            zoo.main(["migrate", "--json"])
        assert ended.value.code == 0
        assert json.loads(capsys.readouterr().out) == {"from": before, "to": HEAD}
    assert settings.home.stat().st_mode & 0o777 == 0o700
