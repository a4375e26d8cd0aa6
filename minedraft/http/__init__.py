"""The OpenAI-compatible HTTP door: a small process of its own in front of the coordinator, `minedraft[http]`.

A request's way: `body` reads it, `schema` makes it an `Asked`, `generations` runs its choices at the coordinator,
`dialects` writes them as OpenAI's JSON, whole or by `streaming`. Torch-free.
"""
