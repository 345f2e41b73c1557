"""Stand-ins for the two simulators: what a slot needs of them, without physics."""

from types import SimpleNamespace

import numpy as np

from pirl.envs.pool import Pool


class FakeMetaWorld:
    """Succeeds at simulator step `success_at`; its hand's x is the number of steps."""

    def __init__(self, success_at=None, diverges=False):
        self.success_at = success_at
        self.steps = 0
        self.seeds = []
        self.executed = []
        self.closed = False
        counters = [SimpleNamespace(number=int(diverges)) for _ in range(16)]
        self.data = SimpleNamespace(warning=counters)

    def seed(self, seed):
        self.seeds.append(seed)

    def reset(self):
        self.steps = 0
        return np.zeros(39), {}

    def step(self, action):
        self.steps += 1
        self.executed.append(np.array(action))
        raw = np.full(39, float(self.steps))
        return raw, 0.0, False, False, {"success": float(self.steps == self.success_at)}

    def close(self):
        self.closed = True


class FakeStudio:
    """Counts pictures."""

    def __init__(self):
        self.drawn = 0
        self.filmed = []

    def images(self, task_id, env):
        self.drawn += 1
        return {"observation.images.image": np.full((3, 4, 4), env.steps, np.uint8)}

    def frame(self, task_id, env, size):
        self.filmed.append(env.steps)
        return np.zeros((size, size, 3), np.uint8)

    def close(self):
        pass


class FakeLibero:
    """Succeeds at control step `success_at`."""

    num_init_states = 50

    def __init__(self, success_at=None):
        self.success_at = success_at
        self.steps = 0
        self.resets = []
        self.drawn = []

    @property
    def pose(self):
        return np.full(3, self.steps, float), np.arange(9.0).reshape(3, 3)

    def reset(self, *, init_state_id, seed):
        self.resets.append((init_state_id, seed))
        self.steps = 0

    def step(self, action):
        self.steps += 1
        return self.steps == self.success_at

    def draw(self, camera):
        self.drawn.append((camera, self.steps))
        image = np.zeros((4, 6, 3), np.uint8)
        image[0, 0] = self.steps
        return image

    def close(self):
        pass


def pool_of(*sims):
    """A pool that hands out `sims` in turn."""
    queue = list(sims)
    return Pool(lambda task_id: queue.pop(0), idle=2)
