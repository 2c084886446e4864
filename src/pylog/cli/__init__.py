"""The command `pylog`: looks into a data directory and works on it from a shell.

One module a command, imported only when it is called, so that help and mistakes cost no start-up time. Data
go to stdout and everything about them to stderr. Invariant: main() returns one of the exit codes below and
never shows a traceback unless it was asked to with --debug.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

OK, ERROR, USAGE, CHECK_FAILED, CORRUPT = range(5)
INTERRUPTED = 130
"""What shells expect of a program that Ctrl-C ended."""

COMMANDS = {
    "topics": "list the topics of a data directory",
    "describe": "show configuration and partitions of a topic",
    "topic": "show hot partitions and keys of a topic (skew)",
    "create": "create a topic",
    "alter": "change a topic's configuration, or add partitions (shows its plan; --execute does it)",
    "copy": "copy a topic into another one, with other partitions perhaps",
    "delete": "delete a topic (shows its plan; --execute does it)",
    "compact": "delete and compact what topics are configured to (shows its plan; --execute does it)",
    "put": "append lines or JSON from standard input",
    "cat": "print records: from the beginning, the end, an offset or a time",
    "dump": "print one line per batch of a segment file or topic",
    "groups": "list the consumer groups of a data directory",
    "group": "describe, delete or reset a consumer group (plan first; --execute does it)",
    "queue": "list, show, peek at or purge work queues (purge: plan first; --execute does it)",
    "dlq": "list, show, redrive or purge dead letters (plan first; --execute does it)",
    "check": "fail where consumer groups lag too far behind",
    "top": "watch the lag and the rates of consumer groups",
    "verify": "check every byte of a segment file, topic or data directory",
    "backup": "copy a data directory, consistently, while others write to it",
    "bench": "measure what this machine does",
}
EPILOG = """\
exit codes: 0 ok, 1 error, 2 usage, 3 check failed, 4 corrupt
`pylog COMMAND --help` explains a command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    replace_closed_streams()
    try:
        args = make_parser(arguments).parse_args(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else USAGE
    try:
        return run(args)
    except BrokenPipeError:
        discard_stdout()
        return OK  # whoever read us had enough
    except KeyboardInterrupt:
        with suppress(BrokenPipeError, KeyboardInterrupt):
            sys.stdout.flush()
        return INTERRUPTED
    except Exception as error:
        if args.debug:
            raise
        return tell(error)


def run(args: argparse.Namespace) -> int:
    """Run the command that was parsed."""
    from pylog.cli.output import Output

    out = Output(json=args.json)
    code: int = import_module(f"pylog.cli.{args.command}").run(args, out)
    sys.stdout.flush()
    return code


def make_parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Make the parser; only the commands that `arguments` name bring their own arguments."""
    parser = Parser(
        prog="pylog",
        description="Look into a pylog data directory and work on it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and exit")
    add_common(parser, directory=".", off=False)
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=CommandParser
    )
    for name, line in COMMANDS.items():
        command = commands.add_parser(name, help=line, description=line[0].upper() + line[1:] + ".")
        if name in arguments:
            import_module(f"pylog.cli.{name}").add_arguments(command)
        # behind the command's name these override what stands before it, and default to that
        add_common(command, directory=argparse.SUPPRESS, off=argparse.SUPPRESS)
    return parser


def add_common(parser: argparse.ArgumentParser, *, directory: str, off: object) -> None:
    """Add what every command takes, before or behind its name."""
    parser.add_argument(
        "-C", dest="directory", metavar="DIR", default=directory, help="data directory; default: ."
    )
    parser.add_argument("--json", action="store_true", default=off, help="print JSON, one object per line")
    parser.add_argument("--debug", action="store_true", default=off, help=argparse.SUPPRESS)


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments, and where to read more."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and leave with the code for usage."""
        self.exit(USAGE, f"{self.prog}: {message}\ntry '{self.prog} --help'\n")


class CommandParser(Parser):
    """Takes options between the arguments, too: argparse by itself takes `put TOPIC -J` for all of them."""

    _mixing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the options first, then the arguments among what is left."""
        if self._mixing:
            return super().parse_known_args(args, namespace)
        self._mixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False


class Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Print the version and leave."""
        from importlib.metadata import version

        print(f"pylog {version('pylog-engine')}")
        parser.exit(OK)


def replace_closed_streams() -> None:
    """Put /dev/null where the shell closed a standard stream, so that no file of the log gets its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = os.O_RDONLY if name == "stdin" else os.O_WRONLY
            nowhere = os.open(os.devnull, mode)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115


def discard_stdout() -> None:
    """Keep the interpreter from complaining about the broken pipe once more when it exits."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def tell(error: Exception) -> int:
    """Say in one line what went wrong; return the exit code that fits."""
    from pylog.cli.output import escaped
    from pylog.errors import ConfigError, CorruptionError, PylogError

    with suppress(BrokenPipeError):
        sys.stdout.flush()
    if isinstance(error, PylogError):
        text = str(error)
    elif isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    else:
        text = f"{type(error).__name__}: {error} (a mistake of pylog's: --debug shows where)"
    text = "; ".join([text, *getattr(error, "__notes__", ())])
    kind = "corrupt" if isinstance(error, CorruptionError) else "error"
    print(f"pylog: {kind}: {escaped(text)}", file=sys.stderr)
    if isinstance(error, CorruptionError):
        return CORRUPT
    return USAGE if isinstance(error, ConfigError) else ERROR
