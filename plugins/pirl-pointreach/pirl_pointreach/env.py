"""The task as a gymnasium environment: a ball on a table, driven in x and y, and a disc that it must reach.

Knows nothing of pirl; torch is not imported, because a simulator worker starts here.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import mujoco
import numpy as np

TASKS = {
    "reach-red": "move the ball to the red disc",
    "reach-blue": "move the ball to the blue disc",
}
"""Instruction by task; the other disc lies there too."""

# A site that is compiled without a place of its own is drawn at its body's, wherever it is put later. The table is
# grey because that is zero to a policy that reads [-1, 1]: discs and ball are then what stands out.
MODEL = """
<mujoco>
  <option timestep="0.01"/>
  <visual>
    <quality shadowsize="0" offsamples="0"/>
    <headlight ambient=".5 .5 .5" diffuse=".1 .1 .1" specular="0 0 0"/>
  </visual>
  <worldbody>
    <camera name="top" pos="0 0 1.2" fovy="45"/>
    <geom type="plane" size=".5 .5 .1" rgba=".8 .8 .75 1"/>
    <site name="red" pos="-.25 0 .002" type="cylinder" size=".07 .002" rgba=".9 .1 .1 1"/>
    <site name="blue" pos=".25 0 .002" type="cylinder" size=".07 .002" rgba=".1 .2 .9 1"/>
    <body pos="0 0 .03">
      <joint name="x" type="slide" axis="1 0 0" range="-.4 .4" limited="true" damping="2"/>
      <joint name="y" type="slide" axis="0 1 0" range="-.4 .4" limited="true" damping="2"/>
      <geom type="sphere" size=".03" mass=".2" rgba=".1 .1 .1 1" contype="0" conaffinity="0"/>
    </body>
  </worldbody>
  <actuator>
    <velocity joint="x" kv="20"/>
    <velocity joint="y" kv="20"/>
  </actuator>
</mujoco>
"""
SPEED = 0.4
"""Metres per second that an action of 1 asks for."""
NEAR = 0.05
"""Metres from ball to disc that count as reached."""
SUBSTEPS = 10
"""Simulator steps of 10 ms per action."""


class PointReach(gymnasium.Env[dict[str, Any], Any]):
    """Observation: position and velocity of the ball; the picture is drawn on demand."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (gymnasium's own form)

    def __init__(self, task: str = "reach-red", *, size: int = 64) -> None:
        self.task, self.size = task, size
        self.model = mujoco.MjModel.from_xml_string(MODEL)
        self.data = mujoco.MjData(self.model)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = gymnasium.spaces.Dict(
            {"agent_pos": gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)}
        )
        self._renderers: dict[int, Any] = {}

    @property
    def goal(self) -> np.ndarray[Any, Any]:
        """Where the disc of the task lies, metres."""
        return self.data.site(self.task.removeprefix("reach-")).xpos[:2]

    @property
    def ball(self) -> np.ndarray[Any, Any]:
        """Where the ball is, metres."""
        return self.data.qpos[:2]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The same seed gives the same scene: discs left and right, the ball near the middle."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        sides, heights = self.np_random.permutation([-0.25, 0.25]), self.np_random.uniform(-1, 1, 2)
        for name, side, height in zip(("red", "blue"), sides, 0.25 * heights, strict=True):
            self.model.site(name).pos[:2] = (side, height)
        self.data.qpos[:] = self.np_random.uniform(-0.05, 0.05, 2)
        mujoco.mj_forward(self.model, self.data)
        return self._observation(), {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Drive for `SUBSTEPS`; reward 1 and the end where the disc is reached."""
        self.data.ctrl[:] = SPEED * np.clip(action, -1.0, 1.0)
        mujoco.mj_step(self.model, self.data, SUBSTEPS)
        success = bool(np.linalg.norm(self.ball - self.goal) < NEAR)
        return self._observation(), float(success), success, False, {"is_success": success}

    def render(self, size: int | None = None) -> Any:
        """The table from above, uint8 [h, w, 3]."""
        side = size or self.size
        if side not in self._renderers:
            self._renderers[side] = mujoco.Renderer(self.model, side, side)
        self._renderers[side].update_scene(self.data, camera="top")
        return self._renderers[side].render()

    def close(self) -> None:
        """Free the renderers."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    def _observation(self) -> dict[str, Any]:
        state = np.concatenate([self.ball, self.data.qvel]).astype(np.float32)
        return {"agent_pos": state}
