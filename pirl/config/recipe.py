"""The knobs of a piRL run: one frozen-in-spirit dataclass per owner, a docstring under each field.

Owns names, types, defaults and units (`algorithm.md` 15.4 for the algorithm). Refuses to know torch,
LeRobot or how a file is read: rules live in `pirl.config.rules`, loading in `pirl.config.load`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

RECIPE = "pi-rl"
"""The one spelling of the recipe."""

VARIANTS = ("flow-sde", "flow-noise")
"""The two variants; each has a section of the same name with an underscore."""


PROTOCOL_VERSION = 5
"""Version of identity tensors, metadata keys and `pirl_*` transition fields."""


@dataclass(kw_only=True)
class LastStepStd:
    """Std of the last denoising step per channel group, in action units (`algorithm.md` 3.9)."""

    xyz: float = 0.005
    """Metres."""
    rot6d: float = 0.02
    """Entries of the 6-D rotation, unitless."""
    joint: float = 0.02
    """Radians."""
    gripper_logit: float = 1.0
    """Logits of hidden gripper channels."""
    other: float = 0.1
    """Every other channel (`auto`), in action units; 0.1 of the data set's per-dim std is a
    start.
    """


@dataclass(kw_only=True)
class FlowSDEConfig:
    """Flow-SDE: noise from the ODE-to-SDE conversion (`algorithm.md` 3, 5)."""

    noise_method: str = "flow_sde"
    """`flow_sde` or `flow_cps` (`algorithm.md` 3.10)."""
    noise_level: float = 0.5
    """`a` of the paper; unitless."""
    w_rule: str = "sde"
    """`sde` keeps the SDE drift; `vp` keeps the carried noise at unit variance."""
    stochastic_steps: str = "one"
    """`one` stochastic step per chunk (hybrid, the paper's default) or `all` steps, each its own
    sample.
    """
    step_sampling: str = "uniform"
    """Law of the stochastic step: `uniform`, `exclude_last` or `weights`."""
    step_weights: tuple[float, ...] | None = None
    """K weights, only with `step_sampling=weights`."""


@dataclass(kw_only=True)
class FlowNoiseConfig:
    """Flow-Noise: learned std on every step, joint likelihood (`algorithm.md` 6)."""

    noise_std_range: tuple[float, float] = (0.08, 0.16)
    """Lower and upper bound of the learned std, in flow units."""
    noise_head_hidden: tuple[int, ...] = (128, 64)
    """Widths of the hidden layers of the noise head."""
    noise_head_detach: bool = False
    """True stops the gradient from the noise head into the transformer."""
    joint_reduction: str = "mean"
    """`mean` over the K+1 terms (the published numbers) or `sum` (the exact likelihood)."""
    noise_lr: float | None = None
    """Learning rate of the noise head; null means `actor_lr`."""


@dataclass(kw_only=True)
class PiRLConfig:
    """Variant and algorithm knobs; names and defaults of `algorithm.md` 15.4."""

    variant: str | None = None
    """`flow-sde` or `flow-noise`; required with the recipe, no default."""
    flow_sde: FlowSDEConfig | None = None
    """Knobs of Flow-SDE; only with that variant."""
    flow_noise: FlowNoiseConfig | None = None
    """Knobs of Flow-Noise; only with that variant."""

    base_sampler: str = "native"
    """`native` (carried noise, equals stock generation at zero noise) or `euler`."""
    last_step_rule: str = "additive"
    """`additive`: mean is the prediction, std is `last_step_std`; `sde`: the paper's own last
    step.
    """
    last_step_std: LastStepStd = field(default_factory=LastStepStd)
    """Std of the last denoising step by channel group."""
    noise_on_unused: bool = False
    """True adds noise to padded and unexecuted dims too, where no density counts."""
    gripper_mode: str = "last_step"
    """`last_step`, `bernoulli` or `none` (`algorithm.md` 7.2)."""
    executed_dims: tuple[int, ...] | None = None
    """Model action dims the robot executes; null means all real dims of the action mode."""
    mask_unexecuted_rows: str = "auto"
    """`auto`, `never` or `always` (`algorithm.md` 7.3)."""
    logprob_level: str = "chunk"
    """`chunk`, `action` or `token`."""

    gamma: float = 0.99
    """Discount per chunk."""
    gae_lambda: float = 0.95
    """Decay of generalised advantage estimation; 1 is the plain return."""
    normalize_advantages: bool = True
    """Subtract the mean of an iteration's advantages and divide by their std."""
    adv_std_floor: float = 0.01
    """Least std of an iteration's advantages, in reward: below it the actor takes no step. 0 is
    off (`algorithm.md` 9.4).
    """
    shuffle_advantages: bool = False
    """Negative control: permute advantages within the batch. A run with it must not learn."""
    bootstrap_on_truncation: bool = False
    """Add the critic's value after a time limit, as if the episode went on."""
    adv_type: str = "gae"
    """`gae` or `grpo`."""
    group_size: int = 8
    """Episodes compared with each other in GRPO; divides `runtime.envs_per_actor`."""
    reward_filter: tuple[float, float] = (0.1, 0.9)
    """GRPO leaves out groups whose mean reward lies outside."""

    clip_low: float = 0.2
    """The ratio is clipped below 1 by this."""
    clip_high: float = 0.2
    """The ratio is clipped above 1 by this."""
    clip_dual: float = 3.0
    """With a negative advantage the loss is at most this times |advantage|."""
    log_ratio_clamp: float = 20.0
    """Largest |log ratio| before it is exponentiated."""
    value_clip: float = 0.2
    """The critic's output may move this far from the recorded value in an update."""
    huber_delta: float = 10.0
    """Error at which the critic's Huber loss turns linear."""
    value_coef: float = 1.0
    """Weight of the critic's loss."""
    loss_weighting: str = "trajectory"
    """`trajectory` (each episode counts equally) or `chunk`."""
    entropy_bonus: float = 0.0
    """Weight of the entropy of the sampled steps; 0 is off."""
    kl_beta: float = 0.0
    """Weight of the KL divergence from the policy that the run began with; 0 is off."""
    target_kl: float | None = None
    """k3 estimate in nats above which the epoch loop stops; the set point of `kl_adaptive`."""
    bc_weight: float = 0.0
    """Weight of a supervised loss on demonstrations; 0 is off, and anything else is refused today."""

    actor_lr: float = 5e-6
    """Learning rate of the policy."""
    actor_lr_max: float | None = None
    """Cap of the adaptive rate; only with `lr_schedule=kl_adaptive`."""
    value_lr: float = 1e-4
    """Learning rate of the critic."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    grad_clip: float = 1.0
    """Largest norm of a gradient."""
    lr_schedule: str = "constant"
    """`constant`, `cosine` (to a tenth over `runtime.total_updates`) or `kl_adaptive`."""
    critic_warmup_steps: int = 0
    """Updates in which only the critic trains."""
    update_epochs: int = 4
    """Passes over a rollout in one update."""
    global_batch: int = 2048
    """Decisions per optimiser step."""
    micro_batch: int = 128
    """Decisions per backward pass; divides `global_batch`."""
    recompute_activations: int = 0
    """Predictions (decisions times recorded steps) whose activations are held at once: a backward
    pass computes them again, in equal pieces of at most so many; 0 holds those of a micro-batch.
    """

    value_hidden: tuple[int, ...] = (1024, 512, 256)
    """Widths of the critic's hidden layers."""
    value_last_init: str = "zero"
    """`zero` or `normal` (RLinf: std 0.02)."""
    value_source: str = "vlm"
    """`vlm` (mean-pooled tokens), `vlm_tokens` (primary-view tokens flattened) or
    `action_tokens`.
    """
    value_epochs: int = 0
    """Extra critic-only epochs per update over the last `value_buffer_updates` updates; 0 is the
    paper.
    """
    value_buffer_updates: int = 1
    """Updates whose decisions the extra critic epochs read."""

    recompute_proximal: bool = True
    """Compute log-probs anew with the weights that an update starts from, and clip around those."""
    staleness_threshold: int = 1
    """Versions a rollout may lag in `async` mode."""
    behave_weight_threshold: float = 2.0
    """Largest weight of a decision that an older version took."""
    train_scope: str = "transformer"
    """`transformer` (the paper: the VLM is frozen and its features are encoded once per update) or
    `all` (the VLM too, encoded again in every pass that trains).
    """
    precision: str = "fp32"
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

    dp_replicate: int = 1
    """Learner processes that each hold all weights and train on a share of every minibatch."""
    dp_shard: int = 1
    """Processes that share out the weights among them; only 1 today."""


@dataclass(kw_only=True)
class RuntimeConfig:
    """Knobs of learner, actors and the link between them; never part of the policy config."""

    host: str = "127.0.0.1"
    """Address the learner binds and actors dial; anything but loopback needs a token, and TLS or
    `insecure`. Host-local.
    """
    port: int = 50051
    """Host-local; 0 lets `pirl launch` pick a free one."""
    token: str | None = None
    """Shared secret carried as gRPC metadata; host-local, never written to evidence."""
    token_file: str | None = None
    """File with the token that only its owner may read; `token` and the environment variable
    `PIRL_TOKEN` come first. Host-local.
    """
    tls_cert: str | None = None
    """PEM certificate file: the learner's own; on actors the trust root, or with `tls_ca` their
    own. Host-local.
    """
    tls_key: str | None = None
    """PEM key file that belongs to `tls_cert`; host-local."""
    tls_ca: str | None = None
    """PEM file of the authority that signed the other side: a learner that has it lets in only
    actors with a certificate of their own (mutual TLS). Host-local.
    """
    insecure: bool = False
    """Let a learner be reached, and an actor dial, beyond loopback without TLS. Host-local."""
    actors: int = 1
    """Actor processes that a learner waits for."""
    envs_per_actor: int = 1
    """Simulators that an actor drives in lockstep."""
    env_workers: int = 1
    """Simulator subprocesses per actor; divides `envs_per_actor`."""
    stock_simulator: bool = False
    """Let LIBERO do the work whose results nobody sees: several times slower, the same bits."""
    mode: str = "sync"
    """`sync` (a rollout belongs to exactly one policy version) or `async` (bounded staleness)."""
    rollout_chunks: int = 24576
    """Decisions per update."""
    total_updates: int = 500
    """Updates of the whole run, those before a resume included."""
    checkpoint_every_updates: int = 10
    """0 writes only the final checkpoint."""
    keep_checkpoints: int = 0
    """So many of the newest checkpoints stay, and the first one; 0 keeps all. Host-local."""
    keep_checkpoints_every: int = 0
    """With `keep_checkpoints`: those of every so many updates stay too; 0: no others. Host-local."""
    config_identity: str = "path+hash"
    """`path+hash`, or `hash` for several machines."""
    learner_device: str = "cpu"
    """Host-local."""
    actor_device: str = "cpu"
    """Host-local."""
    torch_threads: int = 1
    """Threads of each torch process; two processes with default threads fight for the same
    cores.
    """
    connect_timeout_s: float = 120.0
    """An actor waits this long for its learner to answer."""
    reconnect_s: float = 0.0
    """An actor that lost its learner tries this long to get it back; 0 ends at once."""
    rollout_timeout_s: float = 1800.0
    """The learner stops when no usable decision arrives for this long."""
    replacement_timeout_s: float = 300.0
    """So it does when actors were given up for what they sent, none is left and none came for this
    long. Host-local.
    """
    version_timeout_s: float = 14400.0
    """An actor gives its learner up when it publishes nothing for this long, and so do learner
    processes their first one when it commands nothing. Host-local.
    """
    replica_timeout_s: float = 1800.0
    """Learner processes that work on an update wait this long for each other. Host-local."""
    heartbeat_s: float = 5.0
    """Seconds between the signs of life of an actor."""
    actor_timeout_s: float = 30.0
    """A silent actor is given up after this long."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Who else gets the metrics of every update: `tensorboard` (files in the run folder), `mlflow`
    (`MLFLOW_TRACKING_URI`, else mlflow.db in the working directory). W&B has its own section, `wandb`.
    Host-local.
    """
    video_every: int = 0
    """Updates between two videos (`videos/` of the run folder, and the trackers that take them) of an update's
    first episode, a picture per decision; 0 is off. Host-local.
    """
    parity_tol: float | None = None
    """Largest |replayed - recorded| decision log-prob, nats (`algorithm.md` I11); null: what precision, device
    and last-step std allow, 1e-3 in fp32 on a CPU.
    """
    ratio_tol: float | None = None
    """Largest |ratio - 1| at the first minibatch of an update (`algorithm.md` I12); null: likewise."""
    split_file: str | None = None
    """JSON file of train and held-out initial states per task; null means the built-in split."""
    split: str = "train"
    """`train`, `heldout` or `all` (peer-comparable, labelled)."""
