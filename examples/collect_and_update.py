"""Collect one small rollout of the embedded task and update the policy once, all in this process."""

from pirl import (
    Placement,
    RolloutCollector,
    build_batch,
    build_reward,
    build_session,
    load_config,
    load_split,
    make_vector_env,
)

overrides = ["--pirl.global_batch=8", "--pirl.micro_batch=8", "--runtime.rollout_chunks=8"]
loaded = load_config("configs/train_config_pirl_embedded.json", overrides)
cfg, split = loaded.cfg, load_split(loaded.cfg.env.type)
session = build_session(loaded, device="cpu", run_id="")
algorithm = session.algorithm
algorithm.make_optimizers_and_scheduler()
with make_vector_env(
    cfg.env, num_envs=1, num_workers=0, image_keys=session.image_keys, split=split
) as env:
    collector = RolloutCollector(
        policy=session.policy,
        noise_head=algorithm.noise_head,
        env=env,
        pirl=cfg.pirl,
        placement=Placement(seed=cfg.seed, rank=0, num_actors=1, split=split),
        reward=build_reward(cfg, env.info),
    )
    episodes = list(collector.collect(version=0, min_decisions=cfg.runtime.rollout_chunks))
transitions = [transition for episode in episodes for transition in episode.transitions]
batch = build_batch(transitions, policy_version=0, inputs=session.policy.inputs)
stats = algorithm.update(iter([batch]))
won = sum(episode.record.success for episode in episodes)
print(f"{len(transitions)} decisions, {won} of {len(episodes)} episodes succeeded")
print(f"{algorithm.updates} update; losses {stats.losses}")
