"""`msa`: the subcommands, and how errors leave the program.

Exit codes: 0 done, 2 something the user can mend, 1 everything else, 130 interrupted, 143 ended by SIGTERM.
MSA_DEBUG=1 shows tracebacks.
"""

from __future__ import annotations

import errno
import os
import sys

import typer
import typer.exceptions

from medsam_adapter.cli.compare import compare_command
from medsam_adapter.cli.convert import convert_command
from medsam_adapter.cli.data import app as data_app
from medsam_adapter.cli.demo import demo_command
from medsam_adapter.cli.evaluate import evaluate_command
from medsam_adapter.cli.predict import predict_command
from medsam_adapter.cli.pretrain import app as pretrain_app
from medsam_adapter.cli.push import push_command
from medsam_adapter.cli.quickstart import quickstart_command
from medsam_adapter.cli.texts import app as texts_app
from medsam_adapter.cli.train import train_command
from medsam_adapter.cli.zoo import zoo_command
from medsam_adapter.errors import MSAError

app = typer.Typer(
    name="msa",
    help="Medical SAM Adapter: adapt, evaluate, predict and share promptable segmentation of medical images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}

app.command("quickstart")(quickstart_command)
app.command("train", context_settings=OVERRIDES)(train_command)
app.command("evaluate")(evaluate_command)
app.command("compare", context_settings=OVERRIDES)(compare_command)
app.command("predict")(predict_command)
app.command("demo")(demo_command)
app.command("push")(push_command)
app.command("zoo")(zoo_command)
app.command("convert")(convert_command)
app.add_typer(pretrain_app, name="pretrain")
app.add_typer(data_app, name="data")
app.add_typer(texts_app, name="texts")


@app.callback(invoke_without_command=True)
def version(show: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    """Medical SAM Adapter: adapt, evaluate, predict and share promptable segmentation of medical images."""
    if show:
        from medsam_adapter import __version__

        typer.echo(f"medsam-adapter {__version__}")
        raise typer.Exit()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; errors are printed, never raised."""
    # Our own bars say what is happening; transformers' would flash by for every model opened.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        result = app(args=arguments, prog_name="msa", standalone_mode=False)
        if result == 130:  # what typer makes of Ctrl-C
            return _say("interrupted; what was finished is in the output folder", 130)
        return result if isinstance(result, int) else 0
    except typer.Abort:
        return _say("interrupted", 130)
    except typer.exceptions.TyperException as error:  # wrong use; typer has its own copy of click's exceptions
        error.show()  # type: ignore[attr-defined]  # all that typer raises have it
        return error.exit_code
    except MSAError as error:
        _reraise_for_debugging()
        return _say(str(error), error.exit_code)
    except OSError as error:
        _reraise_for_debugging()
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _say(f"a file cannot be written\n  found: {error.strerror}\n  next: make room, then try again", 2)
        if error.filename is None:
            return _say_unexpected(error)
        return _say(f"{error.filename}: cannot be read or written\n  found: {error.strerror}", 2)
    except Exception as error:
        _reraise_for_debugging()
        return _say_unexpected(error)


def _reraise_for_debugging() -> None:
    if os.environ.get("MSA_DEBUG"):
        raise


def _say_unexpected(error: Exception) -> int:
    text = (str(error).strip().splitlines() or [""])[0]
    return _say(f"unexpected {type(error).__name__}: {text}\n  next: run again with MSA_DEBUG=1 and report it", 1)


def _say(text: str, code: int) -> int:
    typer.secho(f"error: {text}", err=True, fg=typer.colors.RED)
    return code


if __name__ == "__main__":
    main()
