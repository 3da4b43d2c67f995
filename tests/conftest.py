"""Settings for all tests. Nothing may wait for a hub, so they are made before a library reads them."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
