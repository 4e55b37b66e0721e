"""An agent of pydantic-ai whose tool calls go through the sidecar."""
