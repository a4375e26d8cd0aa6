"""python -m minedraft.http: serve OpenAI's HTTP API in front of a coordinator."""

from __future__ import annotations

import sys

from minedraft import process
from minedraft.config import HttpSettings
from minedraft.errors import SetupError
from minedraft.telemetry import logs


def build(settings: HttpSettings) -> process.Service:
    """Raises SetupError when the packages of the extra `http` are missing."""
    try:
        from minedraft.http.service import HttpService
    except ModuleNotFoundError as error:
        raise SetupError(f"the package {error.name} is missing: pip install 'minedraft[http]'") from None
    logs.forward("uvicorn")
    return HttpService(settings)


if __name__ == "__main__":
    sys.exit(process.main("http", HttpSettings, build))
