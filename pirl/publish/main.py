"""`pirl push RUN --repo-id ORG/NAME`: the folder of a policy that others can use, and its upload.

Owns what is in the folder and the one door to the hub's uploading. Nothing in the folder names this machine; a
text that would is refused. Read `pirl.publish.card` next.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pirl.audit.redact import find_leaks
from pirl.checkpoint.layout import PRETRAINED_MODEL_DIR
from pirl.config.command_line import parse
from pirl.config.jsonfile import TRAIN_CONFIG_NAME
from pirl.config.policy_path import CONFIG_NAME
from pirl.config.strictjson import read_json_object
from pirl.errors import ConfigError, EnvironmentNotReadyError, EvidenceError, FieldError
from pirl.files import copy_tree, human_bytes, write_json, write_text
from pirl.journal.stats import Rate
from pirl.ownership import contents
from pirl.publish.arguments import push_parser
from pirl.publish.card import model_card, not_tested, start_of
from pirl.publish.facts import Facts, read_facts

CARD, RECORD = "README.md", "pirl_record.json"
_HOST_LOCAL = ("output_dir", "checkpoint_path")


def main(argv: Sequence[str]) -> int:
    """Command line of `pirl push`."""
    args, _ = parse(push_parser(), argv)
    facts = read_facts(args.run, before=args.before, after=args.after, bundle=args.bundle)
    if args.dry_run:
        folder = args.out or args.run / "hub"
        if contents(folder):
            fix = "choose another --out, or move that one away"
            raise _wrong("--out", str(folder), "a new or empty folder", fix)
        write_folder(folder, facts, repo_id=args.repo_id)
        sys.stdout.write(_listing(folder) + f"nothing was sent; the card is {folder / CARD}\n")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_folder(Path(temporary) / "hub", facts, repo_id=args.repo_id)
        url = upload(folder, args.repo_id, private=args.private, message=_message(facts))
    sys.stdout.write(url + "\n")
    return 0


def write_folder(folder: Path, facts: Facts, *, repo_id: str) -> Path:
    """Policy, processors, tokenizer, config of the run, card and record.

    Raises:
        EvidenceError: a text would say something about this machine, or a secret.
    """
    if folder.exists():
        folder.rmdir()
    copy_tree(facts.checkpoint / PRETRAINED_MODEL_DIR, folder)
    for name in (CONFIG_NAME, TRAIN_CONFIG_NAME):
        write_json(folder / name, _without_machine(read_json_object(folder / name)))
    write_text(folder / CARD, model_card(facts, repo_id=repo_id))
    write_json(folder / RECORD, record_of(facts), indent=1)
    texts = [folder / name for name in (CONFIG_NAME, TRAIN_CONFIG_NAME, CARD, RECORD)]
    problems = [f"{p.name}, {leak}" for p in texts for leak in find_leaks(p.read_text("utf-8"))]
    if problems:
        shutil.rmtree(folder)
        raise EvidenceError(
            f"the folder for {repo_id} would leak; nothing was sent", problems=problems
        )
    return folder


def record_of(facts: Facts) -> dict[str, Any]:
    """The facts of the card for a program."""
    folders = {"before": facts.before, "after": facts.after}
    return {
        "format": "pirl-model-record",
        "format_version": 1,
        "run_id": facts.run_id,
        "start": start_of(facts),
        "environment": facts.environment,
        "seed": facts.seed,
        "config_hash": facts.config_hash,
        "updates": facts.updates,
        "exit_reason": facts.exit_reason,
        "books": {k: v for k, v in facts.books.items() if isinstance(v, int)},
        "weights_sha256": facts.weights_sha256,
        "versions": dict(facts.versions),
        "training": {
            "window": facts.window,
            "tasks": [
                {"task": c.task, "start": _counts(c.start), "end": _counts(c.end)}
                for c in facts.training
            ],
        },
        "evaluation": {
            name: {key: f.info[key] for key in ("per_task", "overall")}
            | {"sha256": f.info["sha256"]}
            for name, f in folders.items()
            if f is not None
        },
        "bundle": None if facts.bundle is None else dict(facts.bundle),
        "not_tested": list(not_tested(facts)),
    }


def _counts(rate: Rate | None) -> dict[str, int] | None:
    return None if rate is None else {"successes": rate.successes, "episodes": rate.episodes}


def upload(folder: Path, repo_id: str, *, private: bool, message: str) -> str:
    """Make the repository where there is none and send the folder as one commit; its address.

    Raises:
        EnvironmentNotReadyError: no token, a token that may not, no network, or offline by wish.
    """
    # Only now: the client brings a network stack, and a dry run needs none.
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(library_name="pirl")
    try:
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        commit = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise EnvironmentNotReadyError(
            f"the hub refuses {repo_id}: {status} {_first_line(error)}",
            remedy="log in with `hf auth login`, or set HF_TOKEN to a token that may write there",
        ) from error
    except (OSError, httpx.HTTPError) as error:
        raise EnvironmentNotReadyError(
            f"the hub cannot be reached: {_first_line(error)}",
            remedy="write the folder with --dry-run and send it where there is a network: hf upload"
            f" {repo_id} FOLDER; HF_ENDPOINT and HF_HUB_OFFLINE say where and whether to ask",
        ) from error
    return str(commit.repo_url)


def _without_machine(tree: dict[str, Any]) -> dict[str, Any]:
    """A config without what only this machine has: folders become their last part."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType]
        if isinstance(value, list):
            return [clean(v) for v in value]  # pyright: ignore[reportUnknownVariableType]
        if isinstance(value, str) and Path(value).is_absolute():
            return Path(value).name
        return value

    runtime = tree.get("runtime")
    if isinstance(runtime, dict):
        local = ("token", "token_file", "tls_cert", "tls_key", "tls_ca")
        tree = tree | {"runtime": runtime | dict.fromkeys(local)}
    return clean({k: None if k in _HOST_LOCAL else v for k, v in tree.items()})


def _listing(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    width = max(len(path.relative_to(folder).as_posix()) for path in files)
    rows = [
        f"  {path.relative_to(folder).as_posix():<{width}}  {human_bytes(path.stat().st_size)}\n"
        for path in files
    ]
    return f"{folder}\n" + "".join(rows)


def _message(facts: Facts) -> str:
    return f"pirl run {facts.run_id[:12]}, update {facts.updates}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _wrong(field: str, value: object, expected: str, fix: str) -> ConfigError:
    error = FieldError(field=field, value=value, expected=expected, fix=fix)
    return ConfigError([error], source="command line")
