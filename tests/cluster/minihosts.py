"""Small machines on this one: each has its own address, processes, /tmp and home, and is reached by ssh.

All else of the file system is shared. Needs root, and Debian's openssh-server, iproute2 and rsync.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

NETWORK, BRIDGE = "10.77.0", "harness-br"
FOLDER = Path("/var/lib/harness-minihosts")
TOOLS = ("sshd", "ssh", "ssh-keygen", "ip", "rsync", "unshare", "mount")
SEARCH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
OPTIONS = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=5")
SSH = [word for option in OPTIONS for word in ("-o", option)]

# Runs in the host's own namespaces: the folders that are the host's own, what it shares of those, then sshd for ever.
BOOT = """
set -e
home=$1; shift
mkdir -p "$home" && rm -rf "$home.tmp" && mkdir -m 1777 "$home.tmp"
[ -e "$home/.bashrc" ] || cp /etc/skel/.bashrc /etc/skel/.profile "$home"
config=$1; shift
for path in "$@"; do
  i=$((i + 1)); mkdir -p "$home.share.$i"; mount --bind "$path" "$home.share.$i"
done
mount --bind "$home" /root; mount --bind "$home.tmp" /tmp
i=0
for path in "$@"; do
  i=$((i + 1)); mkdir -p "$path"; mount --bind "$home.share.$i" "$path"
done
exec "$(command -v sshd)" -D -f "$config"
"""


def missing() -> str | None:
    """Returns why hosts cannot be made here, if they cannot."""
    if os.geteuid() != 0:
        return "small hosts need root"
    absent = [tool for tool in TOOLS if shutil.which(tool, path=SEARCH) is None]
    return f"small hosts need {', '.join(absent)}" if absent else None


def _run(*command: object, check: bool = True) -> None:
    subprocess.run(
        [str(part) for part in command],
        check=check,
        timeout=30,
        capture_output=True,
        env={**os.environ, "PATH": SEARCH},
    )


class Hosts:
    """Hosts 1 to `count`, up inside the `with` block, and `shared`, a folder that goes with them.

    `share` names folders under /tmp or /root that all hosts see nevertheless; `environment` gives a host the
    variables that its commands start with.
    """

    def __init__(
        self,
        count: int,
        share: Sequence[Path] = (),
        environment: Mapping[int, Mapping[str, str]] | None = None,
    ) -> None:
        self._count, self._environment = count, environment or {}
        self._share = [path for path in share if str(path).startswith(("/tmp/", "/root/"))]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.key, self.shared = FOLDER / "key", FOLDER / "shared"

    def __enter__(self) -> "Hosts":
        self._turn = Path("/run/harness-minihosts.lock").open("w")  # one at a time: addresses are fixed
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        _clear()
        self.shared.mkdir(parents=True)
        Path("/run/sshd").mkdir(exist_ok=True)
        for name in ("key", "hostkey"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", FOLDER / name)
        try:
            _run("ip", "link", "add", BRIDGE, "type", "bridge")
            _run("ip", "address", "add", f"{NETWORK}.254/24", "dev", BRIDGE)
            _run("ip", "link", "set", BRIDGE, "up")
            for host in range(1, self._count + 1):
                self.start(host)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in list(self._processes):
            self.kill(host)
        _clear()
        self._turn.close()

    def address(self, host: int) -> str:
        """Returns the address of a host."""
        return f"{NETWORK}.{host}"

    def start(self, host: int) -> None:
        """Switches a host on. It finds its home as it left it, and an empty /tmp."""
        space, folder = f"harness{host}", FOLDER / str(host)
        _run("ip", "netns", "add", space)
        _run("ip", "link", "add", f"v{space}", "type", "veth", "peer", "name", "eth0", "netns", space)
        _run("ip", "link", "set", f"v{space}", "master", BRIDGE, "up")
        _run("ip", "-n", space, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _run("ip", "-n", space, "link", "set", device, "up")
        # A way out, or Ray takes localhost for its address; nobody has the address that it leads to.
        _run("ip", "-n", space, "route", "add", "default", "via", f"{NETWORK}.253")
        folder.mkdir(exist_ok=True)
        config = {
            "HostKey": FOLDER / "hostkey",
            "AuthorizedKeysFile": FOLDER / "key.pub",
            "PermitRootLogin": "prohibit-password",
            "StrictModes": "no",
            "UsePAM": "no",
            "PidFile": "none",
        }
        lines = [f"{name} {value}" for name, value in config.items()]
        values = self._environment.get(host, {})
        if values:
            lines.append("SetEnv " + " ".join(f"'{name}={value}'" for name, value in values.items()))
        (folder / "sshd_config").write_text("\n".join(lines) + "\n")
        inside = ["bash", "-c", BOOT, "boot", folder / "home", folder / "sshd_config", *self._share]
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with (folder / "log").open("ab") as log:
            self._processes[host] = subprocess.Popen(
                ["ip", "netns", "exec", space, *apart, *map(str, inside)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": SEARCH},
            )
        (folder / "pid").write_text(str(self._processes[host].pid))
        for _ in range(100):
            if self.run(host, "true").returncode == 0:
                return
            time.sleep(0.1)
        raise TimeoutError(f"host {host} does not answer: {(folder / 'log').read_text()}")

    def kill(self, host: int) -> None:
        """Loses a host at once: nobody hears from it again, not even that its connections are closed."""
        _lose(host)
        self._processes.pop(host).wait(timeout=30)

    def run(self, host: int, command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Runs a command on a host, over ssh."""
        return subprocess.run(
            ["ssh", "-i", str(self.key), *SSH, f"root@{self.address(host)}", command],
            capture_output=True,
            text=True,
            timeout=timeout,
        )


def _lose(host: object) -> None:
    _run("ip", "link", "delete", f"vharness{host}", check=False)  # before its processes say goodbye
    with suppress(OSError, ValueError):
        pid = int((FOLDER / str(host) / "pid").read_text())
        if str(FOLDER).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():  # not who has its number now
            os.kill(pid, signal.SIGKILL)
    _run("ip", "netns", "delete", f"harness{host}", check=False)


def _clear() -> None:
    """Removes all that hosts leave behind, of a run that was killed too."""
    for folder in FOLDER.glob("[0-9]*"):
        _lose(folder.name)
    _run("ip", "link", "delete", BRIDGE, check=False)
    for _ in range(50):  # mounts go with the last process that sees them
        shutil.rmtree(FOLDER, ignore_errors=True)
        if not FOLDER.exists():
            return
        time.sleep(0.1)


if __name__ == "__main__":
    with Hosts(int(sys.argv[1])) as hosts:
        print(f"ssh -i {hosts.key} root@{hosts.address(1)} and on; Enter ends them")
        input()
