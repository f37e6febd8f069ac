"""The command line: `python -m harness`, installed as `harness`. Starting it imports neither torch nor ray."""

import argparse
import errno
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from harness.core.errors import Terminated, UserError

OK, SOME_FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)  # a file or folder that this user may not read or write


class _Parser(argparse.ArgumentParser):
    """Reports invalid arguments as one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    top = _Parser(
        prog="harness", description="What do diffusion features know? Can diffusion generate network weights?"
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    sweep = commands.add_parser("sweep", help="run the missing trials of an experiment and write its report")
    plan = commands.add_parser("plan", help="show what a sweep would do and what it would cost")
    report = commands.add_parser("report", help="rebuild an experiment's report from its tables")
    export = commands.add_parser(
        "export", help="export an experiment's best classifier or generated networks"
    )
    generate = commands.add_parser(
        "generate", help="generate more networks with a finished experiment's generator"
    )
    listing = commands.add_parser("list", help="list experiments and the parts they can use")
    describe = commands.add_parser("describe", help="show what a part is and which options it has")
    convert = commands.add_parser(
        "convert-weights",
        help="rewrite pickled weights (.bin, .ckpt, .pt) as safetensors, reading tensors alone",
    )
    embed = commands.add_parser(
        "embed-prompt", help="write a prompt's embedding, for machines without the text encoders"
    )
    doctor = commands.add_parser("doctor", help="check this machine or a running cluster for problems")
    for command in (sweep, plan, report, export, generate):
        command.add_argument(
            "experiment", nargs="?", default="quickstart", help="name or YAML file (default: quickstart)"
        )
    for command in (sweep, plan, report, export, generate, doctor):
        command.add_argument(
            "--results",
            default=os.environ.get("HARNESS_RESULTS") or "results",
            metavar="URL",
            help="folder or fsspec URL (default: $HARNESS_RESULTS or results)",
        )
    for command in (sweep, plan, export, generate):
        command.add_argument(
            "--set", action="append", default=[], metavar="PATH=VALUE", help="override one value"
        )
    for command in (sweep, plan):
        command.add_argument(
            "--verify", action="store_true", help="read all image files again, also those that look unchanged"
        )
    for command in (sweep, plan, listing, doctor):
        command.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    sweep.add_argument(
        "--address",
        metavar="ADDRESS",
        help="Ray cluster; local starts one (default: a running one, else a new one)",
    )
    doctor.add_argument(
        "--address", metavar="ADDRESS", help="Ray cluster to check (default: a running one); never starts one"
    )
    sweep.add_argument(
        "--debug", action="store_true", help="run in one process without Ray, so that breakpoints work"
    )
    for command in (export, generate):
        command.add_argument(
            "--to", required=True, metavar="FOLDER", help="output folder; must be empty or not exist"
        )
        command.add_argument(
            "--data", metavar="NAME", help="which of several data sets (default: the experiment's own)"
        )
        command.add_argument(
            "--networks",
            type=_positive,
            required=command is generate,
            metavar="N",
            help="number of generated networks to write"
            + (", instead of a classifier" if command is export else ""),
        )
    convert.add_argument("source", metavar="PATH", help="file of weights, or folder of a model")
    convert.add_argument(
        "--to", required=True, metavar="FOLDER", help="output folder; must be empty or not exist"
    )
    embed.add_argument("source", metavar="PIPELINE", help="folder of a pipeline, or Hub id")
    embed.add_argument("--prompt", default="", metavar="TEXT", help='the prompt (default: "")')
    embed.add_argument(
        "--unconditional", action="store_true", help="that of classifier-free guidance's unconditional pass"
    )
    embed.add_argument("--revision", metavar="NAME", help="commit, tag or branch of a Hub id")
    embed.add_argument("--variant", metavar="NAME", help="of the files, such as fp16")
    embed.add_argument("--to", required=True, metavar="FILE", help="new .safetensors file")
    describe.add_argument("part", help="name shown by `harness list`, an experiment, or tables")
    return top


def _positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer from 1 to 1000000")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status: 0 success, 1 some trials failed, 2 bad input."""
    try:
        chosen = parser().parse_args(arguments)
        return COMMANDS[chosen.command](chosen)
    except UserError as error:
        print(f"harness: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt as interrupt:
        print("harness: stopped; recorded results are kept; run the same command to resume", file=sys.stderr)
        return TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED
    except BrokenPipeError:
        return OK
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"harness: {place}{error.strerror}; nothing recorded is lost", file=sys.stderr)
        return BAD_INPUT


def _sweep(chosen: argparse.Namespace) -> int:
    from harness.core.storage import Storage
    from harness.report.page import write_report
    from harness.sweep.experiment import load_experiment
    from harness.sweep.interrupt import interruptible
    from harness.sweep.run import sweep
    from harness.sweep.studies import tables

    experiment = load_experiment(chosen.experiment, chosen.set)
    storage = Storage(chosen.results)
    with interruptible():
        facts = sweep(
            experiment,
            storage,
            address=chosen.address,
            debug=chosen.debug,
            quiet=chosen.json,
            verify=chosen.verify,
        )
    facts["report"] = write_report(storage, experiment.name, tables())
    _print(chosen, facts, [f"report: {facts['report']}"])
    return SOME_FAILED if facts["failed_now"] else OK


def _plan(chosen: argparse.Namespace) -> int:
    from harness.core.storage import Storage
    from harness.sweep.experiment import load_experiment
    from harness.sweep.run import plan_experiment

    experiment = load_experiment(chosen.experiment, chosen.set)
    plan = plan_experiment(experiment, Storage(chosen.results), chosen.verify)
    _print(chosen, plan.summary(), plan.lines())
    return OK


def _report(chosen: argparse.Namespace) -> int:
    from pathlib import Path

    from harness.core.storage import Storage
    from harness.report.page import write_report
    from harness.sweep.studies import tables

    print(write_report(Storage(chosen.results), Path(chosen.experiment).stem, tables()))
    return OK


def _export(chosen: argparse.Namespace) -> int:
    from harness.core.storage import Storage
    from harness.sweep.experiment import load_experiment
    from harness.sweep.export import export

    experiment = load_experiment(chosen.experiment, chosen.set)
    more = chosen.command == "generate"
    said = export(experiment, Storage(chosen.results), chosen.to, chosen.data, chosen.networks, more)
    print("\n".join(said))
    return OK


def _list(chosen: argparse.Namespace) -> int:
    from harness.sweep.catalogue import catalogue

    parts = catalogue()
    _print(chosen, parts, [f"{kind}: {', '.join(names)}" for kind, names in parts.items()])
    return OK


def _describe(chosen: argparse.Namespace) -> int:
    from harness.sweep.catalogue import describe

    print(describe(chosen.part))
    return OK


def _convert(chosen: argparse.Namespace) -> int:
    from harness.core.apart import apart

    print("\n".join(apart("harness.models.backbones.pickles:convert", chosen.source, chosen.to)))
    return OK


def _embed(chosen: argparse.Namespace) -> int:
    from harness.core.apart import apart

    values = {"name": "pretrained", "path": chosen.source, "revision": chosen.revision}
    values |= {"variant": chosen.variant, "prompt": chosen.prompt, "unconditional": chosen.unconditional}
    print("\n".join(apart("harness.models.backbones.embed:embed", values, chosen.to)))
    return OK


def _doctor(chosen: argparse.Namespace) -> int:
    from harness.sweep.doctor.diagnosis import doctor

    diagnosis = doctor(chosen.results, chosen.address)
    _print(chosen, diagnosis.summary(), diagnosis.lines())
    return SOME_FAILED if diagnosis.bad else OK


def _print(chosen: argparse.Namespace, facts: dict[str, Any], lines: list[str]) -> None:
    print(json.dumps(facts) if chosen.json else "\n".join(lines))


COMMANDS = {
    "sweep": _sweep,
    "plan": _plan,
    "report": _report,
    "export": _export,
    "generate": _export,
    "list": _list,
    "describe": _describe,
    "convert-weights": _convert,
    "embed-prompt": _embed,
    "doctor": _doctor,
}
