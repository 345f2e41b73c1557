"""The facts of a starting checkpoint, read from its files before a simulator or a process starts.

Owns the reading of what lies beside the weights, the comparison with the policy config, and the table of
it. Needs neither torch nor LeRobot and downloads nothing: of a hub repository, what is not in the cache
is unknown here and judged when it is loaded. Read `pirl.config.weights_header` and
`pirl.policies.xvla.tokenizer` next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pirl.config.hub_cache import stored
from pirl.config.policy_path import CONFIG_NAME
from pirl.config.strictjson import read_json_object
from pirl.config.weights_header import (
    WEIGHTS_FILE,
    TensorHeader,
    dtypes,
    read_header,
    wrapped_message,
    wrapper_of,
)
from pirl.errors import CheckpointError, FieldError
from pirl.policies.xvla.tokenizer import tokenizer_size, vocabulary_errors, vocabulary_size
from pirl.policies.xvla.views import EMPTY_CAMERA_PREFIX, view_count
from pirl.resources import folder_or_id

PREPROCESSOR_FILE = "policy_preprocessor.json"
POSTPROCESSOR_FILE = "policy_postprocessor.json"
"""LeRobot's names of them."""

DOMAIN_STEP = "xvla_add_domain_id"
NORMALIZERS = ("normalizer_processor", "unnormalizer_processor")
"""LeRobot's registry names of steps."""

_CASTABLE = frozenset({"F64", "F32", "F16", "BF16", "I64", "I32", "BOOL"})
"""Dtypes of weights and of their index buffers; anything else is quantised."""

_DTYPE_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What the files of a starting checkpoint say; None is what they do not say or what is not here."""

    source: str
    """Folder or hub id."""
    dtype: str | None
    """`dtype` of its own config."""
    tensors: Mapping[str, TensorHeader] | None
    domain_id: int | None
    has_preprocessor: bool
    norm_map: Mapping[str, str]
    """What its saved processors do by kind of feature, where that is not IDENTITY."""


def read_start(policy: Any) -> Start | None:
    """The facts of the checkpoint that a policy config starts from; None without one.

    Any: an `XVLAConfig`, LeRobot's or that of `pirl.config.lerobot_fields`.

    Raises:
        CheckpointError: a file of it is damaged.
    """
    if policy.pretrained_path is None:
        return None
    source, revision = folder_or_id(policy.pretrained_path), policy.pretrained_revision

    def file(name: str) -> Path | None:
        return stored(source, name, revision=revision)

    config, weights = file(CONFIG_NAME), file(WEIGHTS_FILE)
    preprocessor, postprocessor = file(PREPROCESSOR_FILE), file(POSTPROCESSOR_FILE)
    dtype = _object(config).get("dtype") if config is not None else None
    return Start(
        source=source,
        dtype=str(dtype) if dtype is not None else None,
        tensors=read_header(weights) if weights is not None else None,
        domain_id=saved_domain_id(preprocessor, policy.num_domains) if preprocessor else None,
        has_preprocessor=preprocessor is not None,
        norm_map=_norm_map(preprocessor) | _norm_map(postprocessor),
    )


def start_errors(policy: Any, start: Start | None) -> list[FieldError]:
    """Where a starting checkpoint, its tokenizer and the policy config do not fit each other."""
    errors = list(vocabulary_errors(policy, tokenizer_size(policy)))
    if start is not None:
        errors += [*_weights(policy, start), *_normalized(start), *_domain(policy, start)]
    return errors


def start_table(policy: Any, start: Start | None) -> dict[str, str]:
    """The facts by name, for people; without a starting checkpoint only those of the config."""
    total = view_count(policy)
    cameras = [n for n, f in (policy.input_features or {}).items() if f.type.name == "VISUAL"]
    cameras = [n for n in cameras if not n.startswith(EMPTY_CAMERA_PREFIX)]
    names = ", ".join(name.removeprefix("observation.images.") for name in cameras)
    padded = total - len(cameras)
    size, rows = tokenizer_size(policy), vocabulary_size(policy)
    words = "a tokenizer that is not read yet" if size is None else f"{size} words"
    table = {
        "views": f"{total}: {names}" + (f" and {padded} of padding" if padded else ""),
        "action mode": str(policy.action_mode),
        "vocabulary": f"{words}, {'?' if rows is None else rows} embeddings ({policy.tokenizer_name})",
    }
    if start is None:
        return table
    domain = "not read yet" if start.domain_id is None else str(start.domain_id)
    if start.domain_id is None and policy.num_domains == 1:
        domain = "0"
    return table | {
        "domain id": f"{domain} of {policy.num_domains}",
        "weights": weights_text(start),
        "normalisation": "IDENTITY",
    }


def weights_text(start: Start) -> str:
    """Dtypes of the weights, and what loading does about them."""
    if start.tensors is None:
        return "not on this machine"
    counts = dtypes(start.tensors)
    text = ", ".join(f"{count} {_DTYPE_NAMES.get(name, name)}" for name, count in counts.items())
    text = f"{text} tensors" + ("" if start.dtype is None else f" (config: {start.dtype})")
    is_plain = set(counts) <= {"F32", "I64", "BOOL"} and start.dtype in (None, "float32")
    return text if is_plain else f"{text}, cast to float32 on load"


def saved_domain_id(file: Path, num_domains: int) -> int | None:
    """Embodiment id in a saved preprocessor; None when it has no such step.

    Raises:
        CheckpointError: it is no LeRobot preprocessor, or its id is outside `num_domains`.
    """
    try:
        ids = [
            step["config"]["domain_id"]
            for step in _object(file)["steps"]
            if step.get("registry_name") == DOMAIN_STEP
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file} is not a LeRobot preprocessor", parts=[repr(error)]
        ) from error
    for domain_id in ids:
        is_integer = isinstance(domain_id, int) and not isinstance(domain_id, bool)
        if not is_integer or not 0 <= domain_id < num_domains:
            raise CheckpointError(
                f"{file}: domain_id = {domain_id!r}, expected 0..{num_domains - 1}"
            )
    return ids[-1] if ids else None


def no_domain_id(source: str, num_domains: int) -> FieldError:
    """The error of a checkpoint of several embodiments that does not say which one it is for."""
    step = f'{{"registry_name": "{DOMAIN_STEP}", "config": {{"domain_id": N}}}}'
    return FieldError(
        field="policy.pretrained_path",
        value=source,
        expected=f"a checkpoint that states its embodiment: policy.num_domains = {num_domains}, and no step"
        f" {DOMAIN_STEP} in its {PREPROCESSOR_FILE}; each domain id is another policy",
        fix=f"add {step} to the steps of {source}/{PREPROCESSOR_FILE}, N below {num_domains} being the"
        f' id that it was trained with; where there is no such file, write {{"name":'
        f' "policy_preprocessor", "steps": [{step}]}}',
    )


def _domain(policy: Any, start: Start) -> Iterator[FieldError]:
    # Of a hub repository the cache may lack the file; `pirl.policies.xvla.domain` fetches it.
    if policy.num_domains == 1 or start.domain_id is not None:
        return
    if start.has_preprocessor or Path(start.source).is_dir():
        yield no_domain_id(start.source, policy.num_domains)


def _normalized(start: Start) -> Iterator[FieldError]:
    for kind, mode in start.norm_map.items():
        yield FieldError(
            field=f"policy.normalization_mapping.{kind}",
            value=mode,
            expected="IDENTITY in the saved processors too: they normalise by dataset statistics, and the"
            " weights were trained on that",
            fix="use a checkpoint that was trained without dataset statistics (X-VLA's default)",
        )


def _weights(policy: Any, start: Start) -> Iterator[FieldError]:
    tensors = start.tensors
    if tensors is None:
        return

    def wrong(expected: str, fix: str) -> FieldError:
        return FieldError(
            field="policy.pretrained_path", value=start.source, expected=expected, fix=fix
        )

    prefix = wrapper_of(tensors)
    if prefix is not None:
        yield wrong(*wrapped_message(start.source, prefix))
        return
    quantised = sorted(set(dtypes(tensors)) - _CASTABLE)
    if quantised:
        yield wrong(
            f"float32, bfloat16 or float16 weights, not {', '.join(quantised)}",
            "use the checkpoint that was not quantised",
        )
    for suffix, rows, field in (
        ("embed_tokens.weight", vocabulary_size(policy), "florence_config.text_config.vocab_size"),
        ("soft_prompt_hub.weight", policy.num_domains, "num_domains"),
    ):
        found = next(
            (t.shape[0] for n, t in tensors.items() if n.endswith(suffix) and t.shape), rows
        )
        if rows is not None and found != rows:
            yield FieldError(
                field=f"policy.{field}",
                value=rows,
                expected=f"{found}, the rows of ...{suffix} in {WEIGHTS_FILE}",
                fix=f"set policy.{field}={found}",
            )


def _norm_map(file: Path | None) -> dict[str, str]:
    """Modes other than IDENTITY of the normalising steps of a saved processor."""
    if file is None:
        return {}
    steps: Any = _object(file).get("steps")
    found: dict[str, str] = {}
    for step in cast("list[Any]", steps) if isinstance(steps, list) else []:
        if (
            isinstance(step, dict)
            and cast("dict[str, Any]", step).get("registry_name") in NORMALIZERS
        ):
            config: Any = cast("dict[str, Any]", step).get("config")
            modes: Any = config.get("norm_map") if isinstance(config, dict) else None
            found |= cast("dict[str, str]", modes) if isinstance(modes, dict) else {}
    return {kind: str(mode) for kind, mode in found.items() if mode != "IDENTITY"}


def _object(file: Path) -> dict[str, Any]:
    try:
        return read_json_object(file)
    except (OSError, ValueError) as error:
        what = "a policy config" if file.name == CONFIG_NAME else "a LeRobot preprocessor"
        raise CheckpointError(f"{file} is not {what}", parts=[str(error)]) from error
