"""The knobs of a piRL run: one frozen-in-spirit dataclass per owner, a docstring under each field.

Owns names, types, defaults, bounds and units (`algorithm.md` 15.4 for the algorithm). Refuses to know torch,
LeRobot or how a file is read: what needs two fields is in `pirl.config.rules`, loading in `pirl.config.load`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pirl.config.bounds import FilledPath, Range, Words, bounded

RECIPE = "pi-rl"
"""The one spelling of the recipe."""

VARIANTS = ("flow-sde", "flow-noise")
"""The two variants; each has a section of the same name with an underscore."""

PRECISIONS = ("fp32", "tf32", "bf16-frozen")
"""Of the networks; which of them a policy has, its kind says."""


PROTOCOL_VERSION = 5
"""Version of identity tensors, metadata keys and `pirl_*` transition fields."""

MAX_COUNT = 2**31 - 1
"""Counts travel as int32 somewhere."""

_WEEK_S = 7 * 24 * 3600
_POSITIVE = Range(0, low_open=True)
_AT_LEAST_ZERO = Range(0)
_COUNT = Range(1, MAX_COUNT)
_COUNT_OR_ZERO = Range(0, MAX_COUNT)
_RATE = Range(0, 1, "learning rate", low_open=True)
_SECONDS = Range(0, _WEEK_S, "seconds", low_open=True)
_STD = Range(0, 100, "action units", low_open=True)
_WIDTH = Range(1, 65536, "units of a layer")


@dataclass(kw_only=True)
class LastStepStd:
    """Std of the last denoising step per channel group, in action units (`algorithm.md` 3.9)."""

    xyz: float = bounded(0.005, _STD)
    """Metres."""
    rot6d: float = bounded(0.02, _STD)
    """Entries of the 6-D rotation, unitless."""
    joint: float = bounded(0.02, _STD)
    """Radians."""
    gripper_logit: float = bounded(1.0, _STD)
    """Logits of hidden gripper channels."""
    other: float = bounded(0.1, _STD)
    """Every other channel (`auto`), in action units; 0.1 of the data set's per-dim std is a
    start.
    """


@dataclass(kw_only=True)
class FlowSDEConfig:
    """Flow-SDE: noise from the ODE-to-SDE conversion (`algorithm.md` 3, 5)."""

    noise_method: str = bounded("flow_sde", Words(("flow_sde", "flow_cps")))
    """`flow_sde` or `flow_cps` (`algorithm.md` 3.10)."""
    noise_level: float = bounded(0.5, Range(0, 10, "a of the paper; 0.5 there", low_open=True))
    """`a` of the paper; unitless."""
    w_rule: str = bounded("sde", Words(("sde", "vp")))
    """`sde` keeps the SDE drift; `vp` keeps the carried noise at unit variance."""
    stochastic_steps: str = bounded("one", Words(("one", "all")))
    """`one` stochastic step per chunk (hybrid, the paper's default) or `all` steps, each its own
    sample.
    """
    step_sampling: str = bounded("uniform", Words(("uniform", "exclude_last", "weights")))
    """Law of the stochastic step: `uniform`, `exclude_last` or `weights`."""
    step_weights: tuple[float, ...] | None = bounded(None, _AT_LEAST_ZERO)
    """K weights, only with `step_sampling=weights`."""


@dataclass(kw_only=True)
class FlowNoiseConfig:
    """Flow-Noise: learned std on every step, joint likelihood (`algorithm.md` 6)."""

    noise_std_range: tuple[float, float] = bounded(
        (0.08, 0.16), Range(0, 10, "flow units", low_open=True)
    )
    """Lower and upper bound of the learned std, in flow units."""
    noise_head_hidden: tuple[int, ...] = bounded((128, 64), _WIDTH)
    """Widths of the hidden layers of the noise head."""
    noise_head_detach: bool = False
    """True stops the gradient from the noise head into the transformer."""
    joint_reduction: str = bounded("mean", Words(("mean", "sum")))
    """`mean` over the K+1 terms (the published numbers) or `sum` (the exact likelihood)."""
    noise_lr: float | None = bounded(None, _RATE)
    """Learning rate of the noise head; null means `actor_lr`."""


@dataclass(kw_only=True)
class PiRLConfig:
    """Variant and algorithm knobs; names and defaults of `algorithm.md` 15.4."""

    variant: str | None = bounded(None, Words(VARIANTS, has_rule=True))
    """`flow-sde` or `flow-noise`; required with the recipe, no default."""
    flow_sde: FlowSDEConfig | None = None
    """Knobs of Flow-SDE; only with that variant."""
    flow_noise: FlowNoiseConfig | None = None
    """Knobs of Flow-Noise; only with that variant."""

    base_sampler: str = bounded("native", Words(("native", "euler")))
    """`native` (carried noise, equals stock generation at zero noise) or `euler`."""
    last_step_rule: str = bounded("additive", Words(("additive", "sde")))
    """`additive`: mean is the prediction, std is `last_step_std`; `sde`: the paper's own last
    step.
    """
    last_step_std: LastStepStd = field(default_factory=LastStepStd)
    """Std of the last denoising step by channel group."""
    noise_on_unused: bool = False
    """True adds noise to padded and unexecuted dims too, where no density counts."""
    gripper_mode: str = bounded("last_step", Words(("last_step", "bernoulli", "none")))
    """`last_step`, `bernoulli` or `none` (`algorithm.md` 7.2)."""
    executed_dims: tuple[int, ...] | None = bounded(
        None, Range(0, 4096, "index of a model action dim")
    )
    """Model action dims the robot executes; null means all real dims of the action mode."""
    mask_unexecuted_rows: str = bounded("auto", Words(("auto", "never", "always")))
    """`auto`, `never` or `always` (`algorithm.md` 7.3)."""
    logprob_level: str = bounded("chunk", Words(("chunk", "action", "token")))
    """`chunk`, `action` or `token`."""

    gamma: float = bounded(0.99, Range(0, 1, "discount per chunk", low_open=True))
    """Discount per chunk."""
    gae_lambda: float = bounded(0.95, Range(0, 1))
    """Decay of generalised advantage estimation; 1 is the plain return."""
    normalize_advantages: bool = True
    """Subtract the mean of an iteration's advantages and divide by their std."""
    adv_std_floor: float = bounded(0.01, Range(0, unit="reward; 0 is off"))
    """Least std of an iteration's advantages, in reward: below it the actor takes no step. 0 is
    off (`algorithm.md` 9.4).
    """
    shuffle_advantages: bool = False
    """Negative control: permute advantages within the batch. A run with it must not learn."""
    bootstrap_on_truncation: bool = False
    """Add the critic's value after a time limit, as if the episode went on."""
    adv_type: str = bounded("gae", Words(("gae", "grpo")))
    """`gae` or `grpo`."""
    group_size: int = bounded(8, _COUNT)
    """Episodes compared with each other in GRPO; divides `runtime.envs_per_actor`."""
    reward_filter: tuple[float, float] = bounded((0.1, 0.9), Range(0, 1, "mean reward of a group"))
    """GRPO leaves out groups whose mean reward lies outside."""

    clip_low: float = bounded(0.2, Range(0, 1, low_open=True, high_open=True))
    """The ratio is clipped below 1 by this."""
    clip_high: float = bounded(0.2, Range(0, 10, low_open=True))
    """The ratio is clipped above 1 by this."""
    clip_dual: float = bounded(3.0, Range(1, 1000, low_open=True))
    """With a negative advantage the loss is at most this times |advantage|."""
    log_ratio_clamp: float = bounded(
        20.0, Range(0, 80, "nats; exp of more overflows fp32", low_open=True)
    )
    """Largest |log ratio| before it is exponentiated."""
    value_clip: float = bounded(0.2, _POSITIVE)
    """The critic's output may move this far from the recorded value in an update."""
    huber_delta: float = bounded(10.0, _POSITIVE)
    """Error at which the critic's Huber loss turns linear."""
    value_coef: float = bounded(1.0, _AT_LEAST_ZERO)
    """Weight of the critic's loss."""
    loss_weighting: str = bounded("trajectory", Words(("trajectory", "chunk")))
    """`trajectory` (each episode counts equally) or `chunk`."""
    entropy_bonus: float = bounded(0.0, _AT_LEAST_ZERO)
    """Weight of the entropy of the sampled steps; 0 is off."""
    kl_beta: float = bounded(0.0, _AT_LEAST_ZERO)
    """Weight of the KL divergence from the policy that the run began with; 0 is off."""
    target_kl: float | None = bounded(None, Range(0, 100, "nats", low_open=True))
    """k3 estimate in nats above which the epoch loop stops; the set point of `kl_adaptive`."""
    bc_weight: float = bounded(0.0, _AT_LEAST_ZERO)
    """Weight of the policy's supervised loss on the demonstrations of `dataset`; 0 is off."""
    bc_schedule: str = bounded("constant", Words(("constant", "linear")))
    """`constant`, or `linear`: the weight falls to zero over `runtime.total_updates`."""

    actor_lr: float = bounded(5e-6, _RATE)
    """Learning rate of the policy."""
    actor_lr_max: float | None = bounded(None, _RATE)
    """Cap of the adaptive rate; only with `lr_schedule=kl_adaptive`."""
    value_lr: float = bounded(1e-4, _RATE)
    """Learning rate of the critic."""
    betas: tuple[float, float] = bounded((0.9, 0.95), Range(0, 1, high_open=True))
    """AdamW's decay rates."""
    eps: float = bounded(1e-8, Range(0, 1, low_open=True))
    """AdamW's epsilon."""
    weight_decay: float = bounded(0.01, Range(0, 1, high_open=True))
    """AdamW's weight decay."""
    grad_clip: float = bounded(1.0, _POSITIVE)
    """Largest norm of a gradient."""
    lr_schedule: str = bounded("constant", Words(("constant", "cosine", "kl_adaptive")))
    """`constant`, `cosine` (to a tenth over `runtime.total_updates`) or `kl_adaptive`."""
    critic_warmup_steps: int = bounded(0, _COUNT_OR_ZERO)
    """Updates in which only the critic trains."""
    update_epochs: int = bounded(4, Range(1, 1000))
    """Passes over a rollout in one update."""
    global_batch: int = bounded(2048, _COUNT)
    """Decisions per optimiser step."""
    micro_batch: int = bounded(128, _COUNT)
    """Decisions per backward pass; divides `global_batch`."""
    recompute_activations: int = bounded(0, Range(0, MAX_COUNT, "predictions; 0 is off"))
    """Predictions (decisions times recorded steps) whose activations are held at once: a backward
    pass computes them again, in equal pieces of at most so many; 0 holds those of a micro-batch.
    """

    value_hidden: tuple[int, ...] = bounded((1024, 512, 256), _WIDTH)
    """Widths of the critic's hidden layers."""
    value_last_init: str = bounded("zero", Words(("zero", "normal")))
    """`zero` or `normal` (RLinf: std 0.02)."""
    value_source: str = bounded("vlm", Words(("vlm", "vlm_tokens", "action_tokens")))
    """`vlm` (mean-pooled tokens), `vlm_tokens` (primary-view tokens flattened) or
    `action_tokens`.
    """
    value_epochs: int = bounded(0, Range(0, 1000))
    """Extra critic-only epochs per update over the last `value_buffer_updates` updates; 0 is the
    paper.
    """
    value_buffer_updates: int = bounded(1, Range(1, 1000))
    """Updates whose decisions the extra critic epochs read."""

    recompute_proximal: bool = True
    """Compute log-probs anew with the weights that an update starts from, and clip around those."""
    staleness_threshold: int = bounded(1, Range(0, 1000, "versions"))
    """Versions a rollout may lag in `async` mode."""
    behave_weight_threshold: float = bounded(
        2.0, Range(1, 1000, "truncation of the behaviour weight")
    )
    """Largest weight of a decision that an older version took."""
    train_scope: str = bounded("transformer", Words(("transformer", "all")))
    """`transformer` (the paper: the VLM is frozen and its features are encoded once per update) or
    `all` (the VLM too, encoded again in every pass that trains).
    """
    precision: str = bounded("fp32", Words(PRECISIONS))
    """`fp32`; `tf32`: matrix products with 10 bits of mantissa, without effect on a CPU; `bf16-frozen`: what
    does not train is kept and computed in bfloat16, what trains in fp32.
    """

    @property
    def is_flow_noise(self) -> bool:
        """Whether the variant is Flow-Noise."""
        return self.variant == "flow-noise"


@dataclass(kw_only=True)
class ParallelismConfig:
    """How many processes are one learner; names as in LeRobot's main branch."""

    dp_replicate: int = bounded(1, Range(1, 4096, "learner processes"))
    """Learner processes that each hold all weights and train on a share of every minibatch."""
    dp_shard: int = bounded(1, Range(1, 4096))
    """Processes that share out the weights among them; only 1 today."""


@dataclass(kw_only=True)
class RuntimeConfig:
    """Knobs of learner, actors and the link between them; never part of the policy config."""

    host: str = "127.0.0.1"
    """Address the learner binds and actors dial; anything but loopback needs a token, and TLS or
    `insecure`. Host-local.
    """
    port: int = bounded(50051, Range(0, 65535, "0 lets `pirl launch` pick one"))
    """Host-local; 0 lets `pirl launch` pick a free one."""
    token: str | None = None
    """Shared secret carried as gRPC metadata; host-local, never written to evidence."""
    token_file: str | None = bounded(None, FilledPath())
    """File with the token that only its owner may read; `token` and the environment variable
    `PIRL_TOKEN` come first. Host-local.
    """
    tls_cert: str | None = bounded(None, FilledPath())
    """PEM certificate file: the learner's own; on actors the trust root, or with `tls_ca` their
    own. Host-local.
    """
    tls_key: str | None = bounded(None, FilledPath())
    """PEM key file that belongs to `tls_cert`; host-local."""
    tls_ca: str | None = bounded(None, FilledPath())
    """PEM file of the authority that signed the other side: a learner that has it lets in only
    actors with a certificate of their own (mutual TLS). Host-local.
    """
    insecure: bool = False
    """Let a learner be reached, and an actor dial, beyond loopback without TLS. Host-local."""
    actors: int = bounded(1, Range(1, 1024))
    """Actor processes that a learner waits for."""
    envs_per_actor: int = bounded(1, Range(1, 1024))
    """Simulators that an actor drives in lockstep."""
    env_workers: int = bounded(1, Range(1, 256))
    """Simulator subprocesses per actor; divides `envs_per_actor`."""
    pipeline: int = bounded(1, Range(1, 2, "groups of environments"))
    """Groups of an actor's environments that take turns: with 2 one simulates while the policy decides for the
    other. Episodes and draws do not depend on it. Host-local.
    """
    stock_simulator: bool = False
    """Let LIBERO do the work whose results nobody sees: several times slower, the same bits."""
    mode: str = bounded("sync", Words(("sync", "async")))
    """`sync` (a rollout belongs to exactly one policy version) or `async` (bounded staleness)."""
    rollout_chunks: int = bounded(24576, _COUNT)
    """Decisions per update."""
    total_updates: int = bounded(500, _COUNT)
    """Updates of the whole run, those before a resume included."""
    checkpoint_every_updates: int = bounded(10, _COUNT_OR_ZERO)
    """0 writes only the final checkpoint."""
    keep_checkpoints: int = bounded(0, Range(0, MAX_COUNT, "checkpoints; 0 keeps all"))
    """So many of the newest checkpoints stay, and the first one; 0 keeps all. Host-local."""
    keep_checkpoints_every: int = bounded(0, Range(0, MAX_COUNT, "updates; 0 is off"))
    """With `keep_checkpoints`: those of every so many updates stay too; 0: no others. Host-local."""
    config_identity: str = bounded("path+hash", Words(("path+hash", "hash")))
    """`path+hash`, or `hash` for several machines."""
    learner_device: str = "cpu"
    """Host-local."""
    actor_device: str = "cpu"
    """Host-local."""
    actor_devices: tuple[str, ...] | None = None
    """Devices that the actors take by turns: the one of rank R has entry R, counted from the first again after the
    last; null: each has `actor_device`. Host-local.
    """
    torch_threads: int = bounded(1, Range(1, 1024))
    """Threads of each torch process; two processes with default threads fight for the same
    cores.
    """
    connect_timeout_s: float = bounded(120.0, _SECONDS)
    """An actor waits this long for its learner to answer."""
    reconnect_s: float = bounded(0.0, Range(0, _WEEK_S, "seconds; 0 ends at once"))
    """An actor that lost its learner tries this long to get it back; 0 ends at once."""
    rollout_timeout_s: float = bounded(1800.0, _SECONDS)
    """The learner stops when no usable decision arrives for this long."""
    replacement_timeout_s: float = bounded(300.0, _SECONDS)
    """So it does when actors were given up for what they sent, none is left and none came for this
    long. Host-local.
    """
    version_timeout_s: float = bounded(14400.0, _SECONDS)
    """An actor gives its learner up when it publishes nothing for this long, and so do learner
    processes their first one when it commands nothing. Host-local.
    """
    replica_timeout_s: float = bounded(1800.0, _SECONDS)
    """Learner processes that work on an update wait this long for each other. Host-local."""
    heartbeat_s: float = bounded(5.0, _SECONDS)
    """Seconds between the signs of life of an actor."""
    actor_timeout_s: float = bounded(30.0, _SECONDS)
    """A silent actor is given up after this long."""
    trackers: tuple[str, ...] = bounded(("tensorboard",), Words(("tensorboard", "mlflow")))
    """Who else gets the metrics of every update: `tensorboard` (files in the run folder), `mlflow`
    (`MLFLOW_TRACKING_URI`, else mlflow.db in the working directory). W&B has its own section, `wandb`.
    Host-local.
    """
    video_every: int = bounded(0, Range(0, MAX_COUNT, "updates; 0 is off"))
    """Updates between two videos (`videos/` of the run folder, and the trackers that take them) of an update's
    first episode, a picture per decision; 0 is off. Host-local.
    """
    parity_tol: float | None = bounded(None, Range(0, 10, "nats", low_open=True))
    """Largest |replayed - recorded| decision log-prob, nats (`algorithm.md` I11); null: what precision, device
    and last-step std allow, 1e-3 in fp32 on a CPU.
    """
    ratio_tol: float | None = bounded(None, Range(0, 10, low_open=True))
    """Largest |ratio - 1| at the first minibatch of an update (`algorithm.md` I12); null: likewise."""
    split_file: str | None = bounded(None, FilledPath())
    """JSON file of train and held-out initial states per task; null means the built-in split."""
    split: str = bounded("train", Words(("train", "heldout", "all")))
    """`train`, `heldout` or `all` (peer-comparable, labelled)."""
