"""LangChain, LiteLLM and `llm`, each as its users run it."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT
from tests.server.completions.conftest import Demo
from tests.server.completions.environment import clean

DOCUMENTATION = (ROOT / "docs" / "openai.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", DOCUMENTATION, re.DOTALL)
DOCUMENTED = "http://localhost:8000"
SCRIPTS = Path(__file__).parent / "scripts"
PICTURE = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?P<url>http://[^)]+)\)")


def run(*command: str | Path, cwd: Path | None = None, **env: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**clean(), "OPENAI_API_KEY": "none", **env},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def dog(content: str) -> str:
    """The address of the one picture in the text, which is a dog's and can be fetched."""
    [found] = PICTURE.finditer(content)
    assert "dog" in found["alt"]
    assert httpx.get(found["url"]).headers["content-type"] == "image/png"
    return found["url"]


def check(demo: Demo, python: Path, name: str, folder: Path) -> Any:
    """What the client's script tells, after the example of the documentation in one process."""
    [example] = [one for one in EXAMPLES if name in one]
    script = folder / f"{name}_chat.py"
    written = (SCRIPTS / script.name).read_text(encoding="utf-8")
    script.write_text(f"{example.replace(DOCUMENTED, demo.url)}\n{written}", encoding="utf-8")
    said = run(python, script, demo.url, demo.dog_uri, LITELLM_LOCAL_MODEL_COST_MAP="True")
    *shown, told = said.splitlines()
    assert f"({demo.url}/v1/images/demo/" in "\n".join(shown)
    return json.loads(told)


def test_langchain(demo: Demo, client_python: Path, tmp_path: Path) -> None:
    told = check(demo, client_python, "langchain", tmp_path)
    assert dog(told["first"]) != dog(told["second"])
    assert dog(told["streamed"])
    usage = told["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert told["streamed_usage"]["output_tokens"] == told["logprobs"] > 0
    assert "dog" in told["seen"]
    assert ["cow" in told["many"][0], "pig" in told["many"][1]] == [True, True]


@pytest.mark.slow
def test_litellm(demo: Demo, client_python: Path, tmp_path: Path) -> None:
    told = check(demo, client_python, "litellm", tmp_path)
    [image] = told["images"]
    assert image["image_url"]["url"] == dog(told["first"])
    assert image["image_url"]["url"] not in told["second"]
    assert told["second"]
    assert told["streamed"] == told["first"]
    assert [image["image_url"] for image in told["streamed_images"]] == [image["image_url"]]
    assert "dog" in told["seen"]
    assert told["errors"]["model"][0] == "NotFoundError"
    assert "'demo'" in told["errors"]["model"][1]
    assert told["errors"]["value"][0] == "BadRequestError"
    assert "response_format" in told["errors"]["value"][1]


@pytest.mark.slow
def test_llm(demo: Demo, client_python: Path, tmp_path: Path) -> None:
    """The command, with the model that the documentation describes."""
    [description] = re.findall(r"```yaml\n(.*?)```", DOCUMENTATION, re.DOTALL)
    described = description.replace(DOCUMENTED, demo.url)
    (tmp_path / "extra-openai-models.yaml").write_text(described)
    (tmp_path / "photo.png").write_bytes(demo.dog)
    commands = re.findall(r"^    (llm .*)$", DOCUMENTATION, re.MULTILINE)
    show, ask = ([str(client_python), "-m", *shlex.split(command)] for command in commands)
    env = {"LLM_USER_PATH": str(tmp_path)}
    assert dog(run(*show, cwd=tmp_path, **env))
    assert "a dog" in run(*ask, "--continue", "--no-stream", cwd=tmp_path, **env)


@pytest.mark.parametrize("example", [one for one in EXAMPLES if "from openai import" in one])
def test_the_documented_examples(demo: Demo, tmp_path: Path, example: str) -> None:
    script = tmp_path / "example.py"
    script.write_text(example.replace(DOCUMENTED, demo.url), encoding="utf-8")
    (tmp_path / "photo.png").write_bytes(demo.dog)
    said = run(sys.executable, script, cwd=tmp_path)
    assert "a dog" in said
    assert "photo.png" in example or f"{demo.url}/v1/images/demo/" in said
