"""The facts of a starting checkpoint, read from its files before a simulator or a process starts.

Owns the reading of what lies beside the weights, the comparison with the policy config, and the table of
it. Needs neither torch nor LeRobot and downloads nothing: of a hub repository, what is not in the cache
is unknown here and judged when it is loaded. Read `pirl.config.weights_header` and
`pirl.policies.xvla.tokenizer` next.
"""

from __future__ import annotations

import json
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
from pirl.policies.xvla.views import EMPTY_CAMERA_PREFIX, is_empty, view_count
from pirl.resources import folder_or_id

PREPROCESSOR_FILE = "policy_preprocessor.json"
POSTPROCESSOR_FILE = "policy_postprocessor.json"
"""LeRobot's names of them."""

DOMAIN_STEP = "xvla_add_domain_id"
NORMALIZERS = ("normalizer_processor", "unnormalizer_processor")
TOKENIZER_STEP, RENAME_STEP = "tokenizer_processor", "rename_observations_processor"
"""LeRobot's registry names of steps."""

ADAPTER_CONFIG = "adapter_config.json"
"""What PEFT writes beside weights that are no policy by themselves."""

NO_STATISTICS = (
    "use a checkpoint that was trained without dataset statistics (X-VLA's default), or train it again with"
    " policy.normalization_mapping all IDENTITY"
)

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
    """What its saved processors do by kind of feature, where they have statistics for it."""
    words: Mapping[str, Any]
    """How its saved preprocessor tokenises, by LeRobot's names; empty where that is not here."""
    seen_as_empty: Mapping[str, str]
    """Cameras that its saved preprocessor gives the name of an empty one, by their own names."""


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
    renamed = _step(preprocessor, RENAME_STEP).get("rename_map")
    return Start(
        source=source,
        dtype=str(dtype) if dtype is not None else None,
        tensors=read_header(weights) if weights is not None else None,
        domain_id=saved_domain_id(preprocessor, policy.num_domains) if preprocessor else None,
        has_preprocessor=preprocessor is not None,
        norm_map=_norm_map(preprocessor) | _norm_map(postprocessor),
        words=_step(preprocessor, TOKENIZER_STEP),
        seen_as_empty={
            camera: name
            for camera, name in (renamed.items() if isinstance(renamed, dict) else ())
            if is_empty(str(name))
        },
    )


def settle_normalization(policy: Any) -> None:
    """Say IDENTITY where a config names statistics that its saved processors do not have, in place.

    LeRobot's steps leave features without statistics as they are, so that is what the weights saw.

    Raises:
        CheckpointError: a file of the checkpoint is damaged.
    """
    if policy.pretrained_path is None:
        return
    source, revision = folder_or_id(policy.pretrained_path), policy.pretrained_revision
    files = [
        stored(source, name, revision=revision) for name in (PREPROCESSOR_FILE, POSTPROCESSOR_FILE)
    ]
    if None in files:
        return
    found = _norm_map(files[0]) | _norm_map(files[1])
    for kind, mode in policy.normalization_mapping.items():
        if kind not in found:
            policy.normalization_mapping[kind] = type(mode)("IDENTITY")


def start_errors(policy: Any, start: Start | None) -> list[FieldError]:
    """Where a starting checkpoint, its tokenizer and the policy config do not fit each other."""
    errors = list(vocabulary_errors(policy, tokenizer_size(policy)))
    if start is not None:
        errors += [
            *_weights(policy, start),
            *_normalized(start),
            *_domain(policy, start),
            *_words(policy, start),
            *_cameras(start),
        ]
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
    folder, fetch = source, ""
    if not Path(source).is_dir():
        folder = source.rpartition("/")[2]
        fetch = f"download it, `hf download {source} --local-dir {folder}`, give that folder, and "
    return FieldError(
        field="policy.pretrained_path",
        value=source,
        expected=f"a checkpoint that states its embodiment: policy.num_domains = {num_domains}, and no step"
        f" {DOMAIN_STEP} in its {PREPROCESSOR_FILE}; each domain id is another policy",
        fix=f"{fetch}add {step} to the steps of {folder}/{PREPROCESSOR_FILE}, N below {num_domains} being the"
        f' id that it was trained with; where there is no such file, write {{"name":'
        f' "policy_preprocessor", "steps": [{step}]}}',
    )


def _domain(policy: Any, start: Start) -> Iterator[FieldError]:
    # Of a hub repository the cache may lack the file; `pirl.policies.xvla.domain` fetches it.
    if policy.num_domains == 1 or start.domain_id is not None:
        return
    if start.has_preprocessor or Path(start.source).is_dir():
        yield no_domain_id(start.source, policy.num_domains)


def _words(policy: Any, start: Start) -> Iterator[FieldError]:
    # LeRobot tokenises with the saved step, pirl with the config: other words, or the same elsewhere.
    for name in ("max_length", "padding_side"):
        field = f"tokenizer_{name}"
        ours, saved = getattr(policy, field), start.words.get(name)
        if saved is not None and saved != ours:
            yield FieldError(
                field=f"policy.{field}",
                value=ours,
                expected=f"{saved}, what the checkpoint's own {PREPROCESSOR_FILE} tokenises with",
                fix=f'write "{field}": {json.dumps(saved)} into {start.source}/{CONFIG_NAME}',
            )


def _cameras(start: Start) -> Iterator[FieldError]:
    for camera, name in start.seen_as_empty.items():
        yield FieldError(
            field="policy.input_features",
            value=name,
            expected=f"a name that is not {EMPTY_CAMERA_PREFIX}N: {PREPROCESSOR_FILE} gives it the pictures of"
            f" {camera}, and pirl takes every view of such a name for padding",
            fix=f"call it {camera} in {CONFIG_NAME} and {PREPROCESSOR_FILE} of {start.source}, and count it in"
            f" {CONFIG_NAME} no longer as one of empty_cameras",
        )


def _normalized(start: Start) -> Iterator[FieldError]:
    for kind, mode in start.norm_map.items():
        yield FieldError(
            field=f"policy.normalization_mapping.{kind}",
            value=mode,
            expected="IDENTITY in the saved processors too: they normalise by dataset statistics, and the"
            " weights were trained on that",
            fix=NO_STATISTICS,
        )


def _weights(policy: Any, start: Start) -> Iterator[FieldError]:
    tensors = start.tensors

    def wrong(expected: str, fix: str) -> FieldError:
        return FieldError(
            field="policy.pretrained_path", value=start.source, expected=expected, fix=fix
        )

    if tensors is None:
        if Path(start.source).is_dir():
            is_adapter = (Path(start.source) / ADAPTER_CONFIG).is_file()
            yield wrong(
                f"a folder with {WEIGHTS_FILE}" + (", not an adapter alone" if is_adapter else ""),
                f"merge the adapter into its base (PEFT's merge_and_unload) and save that as {WEIGHTS_FILE}"
                if is_adapter
                else f"copy the {WEIGHTS_FILE} of that training there",
            )
        return

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
    """Modes other than IDENTITY of the normalising steps of a saved processor that have statistics."""
    found: dict[str, str] = {}
    for step in _steps(file):
        config: Any = step.get("config")
        modes: Any = config.get("norm_map") if isinstance(config, dict) else None
        if step.get("registry_name") in NORMALIZERS and isinstance(modes, dict):
            kinds = _kinds_with_statistics(step, cast("Path", file))
            wanted = cast("dict[str, Any]", modes).items()
            found |= {k: str(m) for k, m in wanted if kinds is None or k in kinds}
    return {kind: mode for kind, mode in found.items() if mode != "IDENTITY"}


def _kinds_with_statistics(step: Mapping[str, Any], file: Path) -> set[str] | None:
    """Kinds of feature that a normalising step has statistics for; None when that is not known here."""
    name, features = step.get("state_file"), step["config"].get("features")
    if name is None:
        return set()
    statistics = file.parent / str(name)
    if not statistics.is_file() or not isinstance(features, dict):
        return None
    measured = {tensor.rpartition(".")[0] for tensor in read_header(statistics)}
    typed = cast("dict[str, Any]", features).items()
    return {str(f.get("type")) for key, f in typed if isinstance(f, dict) and key in measured}


def _step(file: Path | None, name: str) -> dict[str, Any]:
    """Config of the step of a saved processor; empty without one."""
    configs = [s.get("config") for s in _steps(file) if s.get("registry_name") == name]
    return configs[-1] if configs and isinstance(configs[-1], dict) else {}


def _steps(file: Path | None) -> list[dict[str, Any]]:
    steps: Any = None if file is None else _object(file).get("steps")
    found = cast("list[Any]", steps) if isinstance(steps, list) else []
    return [step for step in found if isinstance(step, dict)]


def _object(file: Path) -> dict[str, Any]:
    try:
        return read_json_object(file)
    except (OSError, ValueError) as error:
        what = "a policy config" if file.name == CONFIG_NAME else "a LeRobot preprocessor"
        raise CheckpointError(f"{file} is not {what}", parts=[str(error)]) from error
