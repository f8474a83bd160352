"""The verbs as commands. Parsing imports nothing heavy; each verb imports what it needs when it runs."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from scaledl import __version__
from scaledl.errors import ScaledlError

Arguments = Callable[[argparse.ArgumentParser], None]

OTHERS_WAIT_SECONDS = 1.5
EXIT_CODES = (
    "exit codes: 0 success, 1 failed run, 2 bad usage or config, 3 verdict is no (verification), "
    "75 stopped by a signal and resumable, 130 Ctrl-C"
)


class _Parser(argparse.ArgumentParser):
    """Argument errors in our form: what was wrong, the nearest right thing, exit code 2."""

    def error(self, message: str) -> NoReturn:
        unknown = re.search(r"argument ([^:]+): invalid choice: '(.*)' \(choose from (.*)\)", message, re.DOTALL)
        if unknown:
            choices = [choice.strip("' ") for choice in unknown[3].split(",")]
            what = "verb" if unknown[1] == "verb" else "value" if unknown[1].startswith("-") else "action"
            where = f"{unknown[1]}: " if what == "value" else ""
            message = f"{where}unknown {what} {unknown[2]!r}; {_hint(unknown[2], choices)}"
        elif message.startswith("the following arguments are required"):
            message = f"{message}; `{self.prog} --help` explains them"
        from scaledl.console import printable

        self.exit(2, printable(f"{self.prog}: error: {message}") + "\n")

    def refuse(self, extra: Sequence[str]) -> NoReturn:
        """Say which arguments are not known, and the nearest flag that is."""
        flags = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        first = next((argument for argument in extra if argument.startswith("-")), extra[0])
        hint = (
            _hint(first.partition("=")[0], flags)
            if first.startswith("-")
            else f"`{self.prog} --help` lists what it takes"
        )
        self.error(f"unrecognized arguments: {shlex.join(extra)}; {hint}")


def _hint(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"allowed: {', '.join(known)}"


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("args", nargs="*", metavar="CONFIG.yaml | key=value", help="config file, then overrides")


def _run_argument(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("run", nargs="?", help=f"path, NAME or NAME/ID of {what}; default: the newest training run")


def _trust_argument(parser: argparse.ArgumentParser, what: str = "import the code that the run names") -> None:
    parser.add_argument("--trust", action="store_true", help=what)


def _identity_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--id", help="same as run.id=ID: a fixed id makes the same command resume")
    parser.add_argument("--name", help="same as run.name=NAME")


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    _config_arguments(parser)
    _identity_arguments(parser)
    parser.add_argument(
        "--resume", nargs="?", const="", metavar="RUN", help="go on with RUN, by default the newest unfinished one"
    )

    _trust_argument(parser, "with --resume: import the code that the run names")
    parser.add_argument(
        "--allow-changes", action="store_true", help="go on with a run although its config has changed since it began"
    )


def _chain_arguments(parser: argparse.ArgumentParser) -> None:
    _config_arguments(parser)
    _identity_arguments(parser)


def _compress_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("args", nargs="*", metavar="RUN | key=value", help="the run to compress, then overrides")
    parser.add_argument("--method", metavar="M[,M…]", help="distill, prune, qat, ptq; several make one chain")
    parser.add_argument("--recipe", metavar="FILE", help="YAML with `stages:`, instead of --method")
    parser.add_argument(
        "--id", help="same as run.id=ID; by default it follows from the recipe, so it resumes by itself"
    )
    parser.add_argument("--root", default="runs", help="folder of all runs (default: runs)")
    _trust_argument(parser)


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    _run_argument(parser, "the run to export")
    _trust_argument(parser)
    _root_argument(parser)
    parser.add_argument("--output", metavar="FILE.ts", help="default: exports/model.ts in the run")
    parser.add_argument("--force", action="store_true", help="replace an existing file")


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="the exported file")
    _trust_argument(parser, "load a file whose origin only you vouch for (it is code)")


def _root_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", default="runs", help="folder of all runs (default: runs)")


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", nargs="?", help="run or exported file; default: the newest training run")
    parser.add_argument("--split", choices=("val", "test"), default="test")
    _trust_argument(parser, "load a file whose origin only you vouch for (it is code)")
    _root_argument(parser)


def _generate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", nargs="?", help="run or exported file; default: the newest training run")
    parser.add_argument("--prompt", metavar="TEXT", required=True, help="what the model goes on with")
    parser.add_argument("--tokens", metavar="N", default="100", help="how many more (default: 100)")
    parser.add_argument(
        "--temperature", metavar="T", default="1", help="divides the logits; 0 takes the likeliest (default: 1)"
    )
    parser.add_argument("--top-k", metavar="K", help="draw from so many of the likeliest tokens")
    parser.add_argument(
        "--top-p", metavar="P", default="1", help="draw from the likeliest that have this share together (default: 1)"
    )
    parser.add_argument("--seed", metavar="N", default="0", help="of the draws (default: 0)")
    parser.add_argument("--trust", action="store_true", help="load a file whose origin only you vouch for (it is code)")
    _root_argument(parser)


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("targets", nargs="+", metavar="TARGET", help="exported files and runs (runs: eager fp32)")
    parser.add_argument("--batch-sizes", default="1,64", metavar="N[,N…]")
    parser.add_argument("--threads", metavar="N", default="1", help="CPU threads (default: 1)")
    parser.add_argument("--rounds", metavar="N", default="15", help="interleaved rounds, at least 3 (default: 15)")
    _trust_argument(parser, "load a file whose origin only you vouch for (it is code)")
    _root_argument(parser)


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    _run_argument(parser, "the run to report on")
    _root_argument(parser)


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    _config_arguments(parser)
    parser.add_argument("--nodes", metavar="N[,N…]", help="nodes (default: the config's)")
    parser.add_argument("--devices", metavar="N[,N…]", help="ranks on each node (default: the config's)")
    parser.add_argument("--strategy", choices=("ddp", "deepspeed"), help="how ranks share the work")
    parser.add_argument("--stage", metavar="S[,S…]", help="stages of DeepSpeed ZeRO: 1, 2, 3")
    parser.add_argument("--bandwidth", metavar="GB/s", help="between ranks, instead of what is measured or assumed")


def _runs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--watch", action="store_true", help="follow the running jobs until they end, or Ctrl-C")
    parser.add_argument("--interval", metavar="SECONDS", help="between two looks (default: 2, without a terminal 10)")
    parser.add_argument("--once", action="store_true", help="one look")
    _root_argument(parser)


def _launch_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="slurm")
    text = "submit a training to Slurm and follow its log"
    sub = _add_common(actions.add_parser("slurm", help=text, description=text.capitalize() + ".", allow_abbrev=False))
    sub.set_defaults(parser=sub)
    _config_arguments(sub)
    sub.add_argument("--nodes", metavar="N", default="1", help="nodes (default: 1)")
    sub.add_argument("--gpus", metavar="N", help="GPUs on each node, with a rank each")
    sub.add_argument("--tasks", metavar="N", help="ranks on each node without GPUs (default: 1)")
    sub.add_argument("--cpus", metavar="N", help="CPUs of each rank")
    sub.add_argument("--time", metavar="D-HH:MM:SS", help="time limit, after which the job is requeued and goes on")
    sub.add_argument("--mem", metavar="SIZE", help="memory of each node, such as 64G")
    for name in ("partition", "account", "qos"):
        sub.add_argument(f"--{name}", metavar="NAME", help="as for sbatch")
    sub.add_argument("--array", metavar="0-7%2", help="as for sbatch: a run for each index")
    sub.add_argument("--name", metavar="NAME", help="name of the job (default: the run's)")
    sub.add_argument("--then", choices=("compress",), help="submit this too, to begin when the training is complete")
    sub.add_argument("--dry-run", action="store_true", help="print the script and submit nothing")
    sub.add_argument("--no-follow", action="store_true", help="submit and return")
    sub.add_argument("--no-plan", action="store_true", help="leave out the estimates, which take some seconds")


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", metavar="N", default="30", help="for the network between ranks (default: 30)")
    _root_argument(parser)


def _lineage_arguments(parser: argparse.ArgumentParser) -> None:
    _run_argument(parser, "the run whose ancestors and descendants to show")
    _root_argument(parser)


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", help="models, tasks, sources, …; default: all of them")
    parser.add_argument("--markdown", action="store_true", help="as a page of Markdown: docs/components.md is one")


def _config_verb_arguments(parser: argparse.ArgumentParser) -> None:
    _add_actions(parser, CONFIG_ACTIONS)


def _add_actions(parser: argparse.ArgumentParser, actions: Mapping[str, tuple[str, Arguments]]) -> None:
    """Verbs below a verb."""
    choices = parser.add_subparsers(dest="action", required=True, metavar="|".join(actions))
    for action, (text, add_arguments) in actions.items():
        sub = _add_common(
            choices.add_parser(action, help=text, description=text.capitalize() + ".", allow_abbrev=False)
        )
        sub.set_defaults(parser=sub)
        add_arguments(sub)


def _no_arguments(parser: argparse.ArgumentParser) -> None: ...


def _tune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "args",
        nargs="*",
        metavar="CONFIG.yaml | RUN | key=value",
        help="what to search, then overrides; with --verb compress the run to compress",
    )
    _identity_arguments(parser)
    parser.add_argument("--trials", metavar="N", help="same as tune.trials=N (default: 64)")
    parser.add_argument("--search", metavar="NAME", help="same as tune.search: random, grid, tpe, gp, …")
    parser.add_argument("--scheduler", metavar="NAME", help="same as tune.scheduler: none, asha, pbt, …")
    parser.add_argument(
        "--verb", dest="trial_verb", metavar="NAME", help="same as tune.verb: what a trial does, train or compress"
    )
    parser.add_argument("--method", metavar="M[,M…]", help="with --verb compress: the recipe, as for compress")
    parser.add_argument("--recipe", metavar="FILE", help="with --verb compress: YAML with `stages:`")
    parser.add_argument(
        "--resume", nargs="?", const="", metavar="DIR", help="go on with a search, by default the newest unfinished one"
    )
    parser.add_argument(
        "--show", nargs="?", const="", metavar="DIR", help="where a search stands (default: the newest)"
    )
    parser.add_argument("--warm-start", action="append", default=[], metavar="DIR", help="an earlier search to know")
    parser.add_argument("--address", metavar="HOST:PORT", help="a Ray cluster that runs, or auto")
    parser.add_argument("--yes", action="store_true", help="a grid of thousands of trials is meant")
    _trust_argument(parser)
    parser.add_argument("--root", default="runs", help="folder of all runs, to find a run or a search (default: runs)")


def _find_arguments(parser: argparse.ArgumentParser) -> None:
    _add_actions(parser, FIND_ACTIONS)


def _find_lr_arguments(parser: argparse.ArgumentParser) -> None:
    _config_arguments(parser)
    parser.add_argument("--from", dest="low", metavar="RATE", default="1e-6", help="lowest rate (default: 1e-6)")
    parser.add_argument("--to", dest="high", metavar="RATE", default="10", help="highest rate (default: 10)")
    parser.add_argument("--steps", metavar="N", default="100", help="steps from one to the other (default: 100)")


def _data_arguments(parser: argparse.ArgumentParser) -> None:
    _add_actions(parser, DATA_ACTIONS)


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="what to prepare; it is only read")
    parser.add_argument("args", nargs="*", metavar="CONFIG.yaml | key=value", help="keys of data.prepare")
    parser.add_argument("--out", metavar="DIR", help="folder of the data set")
    parser.add_argument("--size", metavar="N", help="same as data.prepare.size=N: height and width of images")
    parser.add_argument("--force", action="store_true", help="make it anew where it was made otherwise")


def _data_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "args", nargs="*", metavar="DIR | CONFIG.yaml | SOURCE", help="prepared folder, config, or name of a source"
    )


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    _data_target(parser)
    parser.add_argument("--verify", action="store_true", help="check the bytes of a prepared set; exit code 3 if not")


def _preview_arguments(parser: argparse.ArgumentParser) -> None:
    _data_target(parser)
    parser.add_argument("--output", metavar="FILE.png", default="preview.png", help="default: preview.png")
    parser.add_argument("--count", metavar="N", default="64", help="images (default: 64)")
    parser.add_argument("--epoch", metavar="N", default="0", help="of which epoch (default: 0)")


def _audit_arguments(parser: argparse.ArgumentParser) -> None:
    _run_argument(parser, "the training whose model judges")
    parser.add_argument("--split", metavar="S[,S…]", default="val,test", help="default: val,test")
    parser.add_argument("--top", metavar="N", default="20", help="labels to list (default: 20; --json has all)")
    _trust_argument(parser)
    _root_argument(parser)


DATA_ACTIONS: dict[str, tuple[str, Arguments]] = {
    "prepare": ("clean and split a source, and save it as arrays to train on", _prepare_arguments),
    "inspect": ("a data set at a glance", _inspect_arguments),
    "stats": ("samples of each class, mean and deviation of each channel", _data_target),
    "preview": ("write a picture of training samples after augmentation", _preview_arguments),
    "audit": ("list labels that a trained model doubts", _audit_arguments),
}
FIND_ACTIONS: dict[str, tuple[str, Arguments]] = {
    "lr": ("find a learning rate: raise it step by step until the loss explodes", _find_lr_arguments),
    "batch_size": ("find a batch size: double it until memory or throughput ends it", _config_arguments),
}
CONFIG_ACTIONS: dict[str, tuple[str, Arguments]] = {
    "show": ("print the resolved config as YAML", _config_arguments),
    "check": ("validate a config and say so", _config_arguments),
    "keys": ("list every key: type, default, allowed, meaning", _no_arguments),
    "schema": ("print the JSON Schema, for editors", _no_arguments),
}
VERBS: dict[str, tuple[str, Arguments]] = {
    "train": ("train a model", _train_arguments),
    "data": ("prepare, inspect and check data sets", _data_arguments),
    "compress": ("shrink a trained model: distill, prune, qat, ptq", _compress_arguments),
    "export": ("write a verified TorchScript file", _export_arguments),
    "verify": ("check an exported file in a clean process", _verify_arguments),
    "chain": ("train, compress, export and verify, in one resumable go", _chain_arguments),
    "tune": ("search hyperparameters with Ray Tune, here, on a cluster or in a Slurm job", _tune_arguments),
    "find": ("find a learning rate or a batch size; writes nothing", _find_arguments),
    "plan": ("estimate memory and wall time before training", _plan_arguments),
    "launch": ("submit a training to Slurm", _launch_arguments),
    "evaluate": ("figures of a run or an exported file", _evaluate_arguments),
    "generate": ("let a language model write on", _generate_arguments),
    "bench": ("latency of exported files and runs, interleaved", _bench_arguments),
    "report": ("write report.html of a run", _report_arguments),
    "runs": ("list the runs, or follow those that run", _runs_arguments),
    "lineage": ("show where a run comes from and what came of it", _lineage_arguments),
    "list": ("what a config may name, with papers: models, tasks, sources, …", _list_arguments),
    "doctor": ("check this machine, or all nodes of a job and the network between them", _doctor_arguments),
    "config": ("show, list, check configs", _config_verb_arguments),
}


def _add_common(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output, all else on stderr")
    parser.add_argument("--quiet", action="store_true", help="no progress, only results, warnings and errors")
    return parser


def build_parser() -> _Parser:
    """The parser of all verbs; `parser` among the parsed arguments is the one of the verb that was given."""
    parser = _Parser(
        prog="scaledl",
        description="One YAML config from training to a small, verified TorchScript file.",
        epilog=EXIT_CODES,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"scaledl {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb", parser_class=_Parser)
    for verb, (text, add_arguments) in VERBS.items():
        sub = verbs.add_parser(verb, help=text, description=text.capitalize() + ".", epilog=EXIT_CODES)
        sub.allow_abbrev = False
        add_arguments(sub)
        if verb not in ("config", "data", "find", "launch"):
            sub.set_defaults(parser=sub)
            _add_common(sub)
    return parser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse; overrides may stand before, between and after flags."""
    args, extra = build_parser().parse_known_args(argv)
    if extra and (not hasattr(args, "args") or any(argument.startswith("-") for argument in extra)):
        args.parser.refuse(extra)
    if extra:
        args.args.extend(extra)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; every expected failure becomes one message and an exit code."""
    args = parse(argv)
    try:
        _configure_console(args)
        import scaledl.commands as commands

        getattr(commands, args.verb)(args)
    except ScaledlError as error:
        told = error.told or _told_by_rank_0(error)
        return error.exit_code if told else _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _configure_console(args: argparse.Namespace) -> None:
    from scaledl.console import get_console

    get_console().configure(json=args.json, quiet=args.quiet)


def _told_by_rank_0(error: ScaledlError) -> bool:
    """All ranks find the same in a config; most launchers end the others when the first leaves: these wait for it."""
    other = any(os.environ.get(name, "0").strip() not in ("", "0") for name in ("RANK", "SLURM_PROCID"))
    if not other or error.exit_code != 2:
        return False
    from scaledl.distributed.preemption import stop_flag

    deadline = time.monotonic() + OTHERS_WAIT_SECONDS
    while not stop_flag.signum and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(stop_flag.signum)


def _fail(message: str, exit_code: int) -> int:
    from scaledl.console import get_console

    get_console().error(message)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
