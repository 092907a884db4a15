"""Flags, then variables, then the file; and what each of them gets wrong."""

from pathlib import Path

import pytest

from fromage_server.cli import main
from fromage_server.errors import SettingsError
from fromage_server.settings import Settings, load_settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fromage.toml"
    path.write_text('port = 7001\nbundle = "from-file"\nmax_batch = 3\n[images]\npets = "/pets"\n')
    return path


def test_flags_come_before_variables_before_the_file(file: Path) -> None:
    environ = {"FROMAGE_PORT": "7002", "FROMAGE_BUNDLE": "from-env", "FROMAGE_CONFIG": str(file)}
    settings = load_settings({"port": "7003", "bundle": None}, environ)
    assert (settings.port, settings.bundle, settings.max_batch) == (7003, "from-env", 3)
    assert settings.images == {"pets": Path("/pets")}
    assert load_settings({"config": str(file)}, {}).port == 7001


def test_defaults() -> None:
    settings = load_settings({}, {})
    assert (settings.bundle, settings.host, settings.port) == ("demo", "127.0.0.1", 8000)


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load_settings({}, {"FROMAGE_BUNDLE": ""}).bundle == "demo"


def test_named_paths_in_their_order() -> None:
    settings = load_settings({"collections": ["b=/x", "a=/y=z"]}, {"FROMAGE_IMAGES": "p=/1, q=/2"})
    assert list(settings.collections.items()) == [("b", Path("/x")), ("a", Path("/y=z"))]
    assert settings.images == {"p": Path("/1"), "q": Path("/2")}


@pytest.mark.parametrize(
    ("flags", "environ", "told"),
    [
        ({}, {"FROMAGE_BUNDEL": "x"}, "FROMAGE_BUNDEL"),
        ({"port": "0"}, {}, "--port = '0'"),
        ({"max_batch": "many"}, {}, "--max-batch = 'many'"),
        ({}, {"FROMAGE_PORT": "70000"}, "FROMAGE_PORT = '70000'"),
        ({"collections": ["nameless"]}, {}, "NAME=PATH"),
        ({"collections": ["a/b=/x"]}, {}, "is not a name"),
        ({"dtype": "int4"}, {}, "--dtype"),
        ({"config": "/nowhere.toml"}, {}, "/nowhere.toml"),
    ],
)
def test_what_is_wrong_is_named(
    flags: dict[str, object], environ: dict[str, str], told: str
) -> None:
    with pytest.raises(SettingsError, match=told.replace("(", r"\(")):
        load_settings(flags, environ)


def test_an_unknown_key_of_the_file_is_named(file: Path) -> None:
    file.write_text("portt = 1\n")
    with pytest.raises(SettingsError, match="portt is not a setting"):
        load_settings({"config": str(file)}, {})
    file.write_text("port = ")
    with pytest.raises(SettingsError, match="is not TOML"):
        load_settings({"config": str(file)}, {})


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "x"]) == 2
    assert "--port = 'x'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--prot", "1"])
    assert ended.value.code == 2


def test_the_documentation_lists_every_setting() -> None:
    text = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()
    for name, field in Settings.model_fields.items():
        assert f"| `FROMAGE_{name.upper()}` |" in text
        assert field.description is not None
        assert f"| {field.description} |" in text
