import os
from pathlib import Path

import pytest

from tunery.settings import Settings, SettingsError, load_settings


@pytest.fixture(autouse=True)
def no_settings_of_this_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TUNERY_")]:
        monkeypatch.delenv(name)


def test_defaults_lie_in_home(home: Path) -> None:
    settings = load_settings(home=home)
    assert settings.resolved_database_url == f"sqlite:///{home}/tunery.db"
    assert settings.resolved_blob_url == f"file://{home}/blobs"
    assert settings.models_dir == home / "models"
    assert settings.base_url == "http://127.0.0.1:8000"


def test_nothing_is_made_by_reading_settings(tmp_path: Path) -> None:
    load_settings(home=tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_arguments_win_over_the_environment_and_that_over_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "tunery.toml").write_text('port = 1\nhost = "file"\nlease_s = 5\n')
    monkeypatch.setenv("TUNERY_PORT", "2")
    monkeypatch.setenv("TUNERY_HOST", "environment")
    settings = load_settings(home=home, port=3, host=None)
    assert (settings.port, settings.host, settings.lease_s) == (3, "environment", 5)


def test_home_may_come_from_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "tunery.toml").write_text("port = 99\n")
    monkeypatch.setenv("TUNERY_HOME", str(home))
    assert load_settings().port == 99


def test_an_unknown_key_in_the_file_is_an_error(home: Path) -> None:
    (home / "tunery.toml").write_text("prot = 1\n")
    with pytest.raises(SettingsError, match=r"Unknown setting in .*tunery\.toml: prot"):
        load_settings(home=home)


def test_an_unknown_key_in_the_environment_is_an_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNERY_MONTHLY_BUGDET", "1")
    with pytest.raises(SettingsError, match="TUNERY_MONTHLY_BUGDET"):
        load_settings(home=home)


@pytest.mark.parametrize(
    "text", ["port = 70000", "lease_s = 0", 'paused_status = "asleep"', "requests_per_minute = -1"]
)
def test_a_value_that_cannot_be_used_is_named(home: Path, text: str) -> None:
    (home / "tunery.toml").write_text(text)
    with pytest.raises(SettingsError, match=text.split()[0]):
        load_settings(home=home)


def test_a_file_that_is_no_toml_and_one_that_is_missing(home: Path) -> None:
    (home / "tunery.toml").write_text("port =")
    with pytest.raises(SettingsError, match="not valid TOML"):
        load_settings(home=home)
    with pytest.raises(SettingsError, match="no settings file"):
        load_settings(home / "other.toml", home=home)


def test_secrets_are_masked_when_printed_and_in_errors(home: Path) -> None:
    settings = load_settings(home=home, api_key="sk-very-secret", smtp_password="hunter2")
    assert "sk-very-secret" not in f"{settings!r} {settings}" and "hunter2" not in repr(settings)
    with pytest.raises(SettingsError) as caught:
        load_settings(home=home, port="sk-very-secret")
    assert "sk-very-secret" not in str(caught.value)


def test_a_child_process_gets_the_same_settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_settings(
        home=home, api_key="sk-1", engine_urls=["http://a", "http://b"], webhook_allow_private_addresses=True
    )
    for name, value in first.as_environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == first


def test_the_public_url_stands_in_links(home: Path) -> None:
    assert load_settings(home=home, public_url="https://tune.acme.test/").base_url == "https://tune.acme.test"


def test_settings_do_not_change(home: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings(home=home).port = 1


@pytest.mark.parametrize(
    ("file", "environment", "starts", "urls"),
    [
        ('engine_url = "http://a"', {}, False, ["http://a"]),
        ("", {"engine_url": "http://a/"}, False, ["http://a"]),
        ('engine_url = "http://a"\nengine_urls = ["http://b"]', {}, False, ["http://a", "http://b"]),
        (
            'engine_url = "http://a"',
            {"engine_url": "http://b", "engine_urls": "http://c"},
            False,
            ["http://b", "http://c"],
        ),
        ('engine_kind = "vllm"\nengine_urls = ["http://b"]', {}, False, ["http://b"]),
        ('engine_kind = "local"\nengine_urls = ["http://b"]', {}, True, ["http://b"]),
        ("", {"engine_kind": "vllm", "engine_urls": "http://b"}, False, ["http://b"]),
        ("", {"engine_kind": "local"}, True, []),
    ],
)
def test_settings_of_engines_mean_what_they_meant_and_are_told(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    file: str,
    environment: dict[str, str],
    starts: bool,
    urls: list[str],
) -> None:
    (home / "tunery.toml").write_text(file + "\n")
    for name, value in environment.items():
        monkeypatch.setenv(f"TUNERY_{name.upper()}", value)
    settings = load_settings(home=home)
    assert (settings.start_engine, settings.engines) == (starts, urls)
    assert "start_engine and engine_urls" in caplog.text


def test_a_former_value_that_cannot_be_used_is_named(home: Path) -> None:
    (home / "tunery.toml").write_text('engine_kind = "vlm"\n')
    with pytest.raises(SettingsError, match="engine_kind"):
        load_settings(home=home)
