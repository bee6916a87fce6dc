"""Starts Python scripts from a process that has imported PyTorch already.

    python tests/warm.py SOCKET script.py …
    python tests/warm.py SOCKET -m module …

The import takes two seconds, longer than most runs of a driver on a tiny model. `Server` starts a
process that imports PyTorch, and nothing of the project, and forks itself for each script. This
file, given its socket, stands for the script: it hands over its arguments, folder, environment and
open files, and ends as the script did. If it is killed, so is the script.

What a fork cannot do runs as it is: options of the interpreter other than -m, and environments
that PyTorch would have read differently when it was imported.
"""

import gc
import json
import os
import select
import signal
import socket
import sys

# Beginnings of the variables that the interpreter and the libraries read when they are loaded. Caps
# on instruction sets are not among them: they are read when the first product is computed.
READ_AT_IMPORT = (
    "PYTHON", "LANG", "LC_", "LD_", "MALLOC_", "OMP_", "GOMP_", "KMP_", "MKL_NUM", "OPENBLAS_",
    "TORCH", "PYTORCH_", "CUDA_",
)  # fmt: skip
IS_POSSIBLE = hasattr(os, "pidfd_open") and hasattr(socket, "send_fds")


def read_at_import(environ):
    """The variables of an environment that a process cannot change later."""
    return {
        name: value
        for name, value in environ.items()
        if name.startswith(READ_AT_IMPORT) and name != "PYTHONPATH"
    }


# --- in place of the script ----------------------------------------------------------------------


def stand_for(path, argv):
    """Runs the script `argv` through the server at `path`, or else in this process."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    request = json.dumps([argv, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(connection, [b"%d\n" % len(request)], [0, 1, 2])
    connection.sendall(request)
    answer = connection.recv(16)
    if answer == b"cold":
        os.execv(sys.executable, [sys.executable, *argv])
    status = int(answer or -signal.SIGKILL)
    if status < 0:
        os.kill(os.getpid(), -status)
    os._exit(status)


# --- the server ----------------------------------------------------------------------------------


def serve(path, lifeline):
    """Forks for each script until the other end of `lifeline`, a file descriptor, is closed.

    Returns in the process of a script, with its arguments.
    """
    import numpy  # noqa: F401
    import torch._dynamo  # noqa: F401  which DistributedDataParallel imports
    import tqdm  # noqa: F401

    # Else the collector of each script would copy all of this process's memory to look through it.
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that ended keepers leave no zombies
    while True:
        ready, _, _ = select.select([listener, lifeline], [], [])
        if lifeline in ready:
            sys.exit()
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            os.close(lifeline)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return keep(connection)
        connection.close()


def keep(connection):
    """Forks for the script that `connection` asks for, and reports how it ended.

    Returns in the script's process, with its arguments.
    """
    size, files, _, _ = socket.recv_fds(connection, 16, 3)
    size, _, request = size.partition(b"\n")
    while len(request) < int(size):
        request += connection.recv(2**16)
    argv, folder, environ = json.loads(request)
    if read_at_import(environ) != read_at_import(os.environ):
        connection.sendall(b"cold")
        os._exit(0)

    script = os.fork()
    if script == 0:
        connection.close()
        for target, file in enumerate(files):
            os.dup2(file, target)
            os.close(file)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environ)
        return argv

    for file in files:
        os.close(file)
    ended = os.pidfd_open(script)
    ready, _, _ = select.select([connection, ended], [], [])
    if connection in ready:  # closed: the process that stood for the script was killed
        os.kill(script, signal.SIGKILL)
    _, status = os.waitpid(script, 0)
    connection.sendall(b"%d" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def become(argv):
    """Executes a script, or -m and a module, as the interpreter does."""
    import runpy

    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        old = getattr(sys, name)
        buffering = 1 if name == "stderr" or os.isatty(old.fileno()) else -1  # 1: by lines
        new = open(old.fileno(), mode, buffering, old.encoding, old.errors)
        setattr(sys, name, new)
    is_module = argv[0] == "-m"
    sys.argv = argv[is_module:]
    more = os.environ.get("PYTHONPATH")
    folder = os.getcwd() if is_module else os.path.dirname(os.path.realpath(argv[0]))
    sys.path[:1] = [folder, *(more.split(os.pathsep) if more else [])]
    if is_module:
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(argv[0], run_name="__main__")


# --- for the tests -------------------------------------------------------------------------------


class Server:
    """A running server. It ends with the process that made it, or earlier by `close`.

    command    what to put before the arguments of Python
    """

    def __init__(self, folder, environ):
        import subprocess

        path = os.path.join(folder, "warm.sock")
        theirs, self.lifeline = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", path, str(theirs)], pass_fds=[theirs],
            env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        os.close(theirs)
        self.process.stdout.readline()
        self.command = [sys.executable, "-I", "-S", __file__, path]

    def close(self):
        """Ends the server; scripts that are running go on."""
        os.close(self.lifeline)
        self.process.wait()


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        become(serve(sys.argv[2], int(sys.argv[3])))
    elif sys.argv[2].startswith("-") and sys.argv[2] != "-m":
        os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
    else:
        stand_for(sys.argv[1], sys.argv[2:])
