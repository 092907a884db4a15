import subprocess
import sys

HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "PIL",
    "open_clip",
    "faiss",
    "fromage_server",
    "pydantic",
)

PROGRAM = f"""
import sys
import fromage_client, fromage_client.terminal, fromage_client.__main__
print(sorted(set({HEAVY!r}) & set(sys.modules)))
"""


def test_the_client_needs_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "[]\n"
