"""Asks for known vulnerabilities of the packages in .venv (`make audit`), with pip-audit in an environment of its own.

Leaves with 0 where there are none, and where nothing could be asked: without a network, or behind a mirror that knows
no vulnerabilities. It says which. Leaves with 1 where there are some, or where pip-audit itself fails.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ENVIRONMENT = Path(__file__).parents[1] / ".venv" / "audit"
# What the tools say when they reach nobody.
NO_NETWORK = (
    "ConnectionError", "Connection refused", "NewConnectionError", "Name or service not known", "timed out",
    "Temporary failure in name", "Network is unreachable", "ProxyError", "ReadTimeout", "ConnectTimeout",
    "Max retries exceeded", "ServiceError", "No matching distribution found",
)  # fmt: skip


def main() -> int:
    tool = ENVIRONMENT / "bin" / "pip-audit"
    if not tool.exists():
        venv.create(ENVIRONMENT, with_pip=True)
        installed = run(ENVIRONMENT / "bin" / "python", "-m", "pip", "install", "--quiet", "pip-audit")
        if not tool.exists():
            return without_network(installed.stderr)
    asked = run(tool, "--path", sysconfig.get_path("purelib"), "--format", "json", "--progress-spinner", "off")
    try:
        packages = json.loads(asked.stdout)["dependencies"]
    except (ValueError, KeyError):
        return without_network(asked.stderr)
    return told(packages)


def run(*words: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True)


def told(packages: list[dict]) -> int:
    """Prints what pip-audit found; `packages` as in its JSON."""
    known = [each for each in packages if "skip_reason" not in each]
    hit = [(each, vulnerability) for each in known for vulnerability in each["vulns"]]
    if not known:
        print(f"not audited: no network, or an index that knows none of the {len(packages)} packages")
        return 0
    for each, vulnerability in hit:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"{each['name']} {each['version']}: {vulnerability['id']}, mended in {fixed}")
    print(f"audited: {len(known)} of {len(packages)} packages, {len(hit)} known vulnerabilities")
    return 1 if hit else 0


def without_network(said: str) -> int:
    if any(words in said for words in NO_NETWORK):
        print("not audited: no network")
        return 0
    print(said or "pip-audit said nothing", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
