from __future__ import annotations

from hypothesis import settings

# A slow minute of the machine is no failure.
settings.register_profile("meshmq", deadline=None)
settings.load_profile("meshmq")
