"""Contract tests never touch the network; the hub client reads its switch when imported."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
