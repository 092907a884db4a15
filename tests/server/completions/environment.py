"""An environment for clients whose pins collide with the server's, made once and kept."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("clients.txt")
# Two variables would lead its Python back to this one's packages.
_OURS = ("PYTHONPATH", "PYTHONHOME")


class NotInstalled(Exception):
    """The packages could not be fetched or installed."""


def ensure(path: Path = Path(sys.prefix) / "openai-clients") -> Path:
    """Its Python. Raises NotInstalled; takes about half a minute with a warm cache."""
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    done = path / "installed"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.is_file() or done.read_text() != digest:
            shutil.rmtree(path, ignore_errors=True)
            _run("venv", sys.executable, "-m", "venv", str(path))
            install = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet")
            flags = ("--no-deps", "--no-compile", "--retries", "1", "-r", str(REQUIREMENTS))
            _run("pip", str(_python(path)), *install, *flags)
            done.write_text(digest)
    return _python(path)


def clean() -> dict[str, str]:
    """This process's variables, without those that are about its own packages and settings."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in _OURS and not name.startswith(("FROMAGE_", "OPENAI_", "LLM_", "LITELLM_"))
    }


def _python(path: Path) -> Path:
    return path / "bin" / "python"


def _run(what: str, *command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=clean(), check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()
        raise NotInstalled(f"{what} failed: {said[-1]}")


if __name__ == "__main__":
    try:
        print(ensure())
    except NotInstalled as error:
        sys.exit(str(error))
