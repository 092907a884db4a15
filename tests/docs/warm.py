"""`fromage` without the seconds that loading PyTorch takes: a process that has imported everything
makes a fork of itself for each command. So a page with eight commands takes seconds, not a minute.

    python -m tests.docs.warm SOCKET                      the process
    python -S warm.py SOCKET ARGUMENT...                  a command, like `fromage ARGUMENT...`
"""

import json
import os
import socket
import sys

VARIABLE = "WARM_FROMAGE"
SIZE = 1 << 16
MODULES = ("torch", "transformers", "open_clip", "faiss", "fromage_weights.loading")


def serve(address: str) -> None:
    """Until it is ended."""
    import importlib
    import signal

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    for name in MODULES:
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address + ".new")
        listener.listen()
        os.rename(address + ".new", address)
        while True:
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    _run(connection)


def _run(connection: socket.socket) -> None:
    """In a fork: what the caller asked for, where it is and as if it were the caller."""
    status = 1
    try:
        message, files, _, _ = socket.recv_fds(connection, SIZE, 3)
        for number, file in enumerate(files):
            os.dup2(file, number)
        asked = json.loads(message)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        from fromage_server.cli import main

        status = main(asked["arguments"])
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(bytes([status]))
        os._exit(status)


def ask(address: str, arguments: list[str]) -> int:
    """The command's exit status."""
    asked = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [json.dumps(asked).encode()], [0, 1, 2])
        answer = connection.recv(1)
    return answer[0] if answer else 1


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    sys.exit(ask(sys.argv[1], sys.argv[2:]))
