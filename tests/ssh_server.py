"""A real sshd of its own on loopback: two addresses, so two hosts, with their own keys. Nothing outside its folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
HOSTS = {"node1": "127.0.0.1", "node2": "127.0.0.2"}
_PRIVILEGE_FOLDER = Path("/run/sshd")  # sshd refuses to start as root without it


def missing_program() -> str | None:
    return next((name for name in ("sshd", "ssh", "ssh-keygen") if _which(name) is None), None)


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SBIN}")


class SshServer:
    """`with SshServer(folder) as server:`; `server.command` is the ssh that knows node1 and node2."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    @property
    def command(self) -> str:
        return f"ssh -F {self.folder / 'ssh_config'}"

    def __enter__(self) -> SshServer:
        self._made = os.geteuid() == 0 and not _PRIVILEGE_FOLDER.exists()
        if self._made:
            _PRIVILEGE_FOLDER.mkdir(mode=0o755)
        for name in ("host_key", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)], check=True)
        port = _free_port()
        self._write_files(port)
        program = _which("sshd")
        assert program is not None
        # It goes to the background by itself, so that it is nobody's child.
        subprocess.run([program, "-f", str(self.folder / "sshd_config"), "-E", str(self.folder / "log")], check=True)
        self._wait_for(port)
        self._pid = int((self.folder / "pid").read_text())
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self._pid, signal.SIGTERM)
        while Path(f"/proc/{self._pid}").exists():
            time.sleep(0.02)
        if self._made:
            _PRIVILEGE_FOLDER.rmdir()

    def _write_files(self, port: int) -> None:
        folder = self.folder
        shutil.copy(folder / "key.pub", folder / "authorized_keys")
        server = [
            f"Port {port}",
            *(f"ListenAddress {address}" for address in HOSTS.values()),
            f"HostKey {folder}/host_key",
            f"AuthorizedKeysFile {folder}/authorized_keys",
            f"PidFile {folder}/pid",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "PermitRootLogin prohibit-password",
        ]
        client = [
            *(f"Host {name}\n  HostName {address}" for name, address in HOSTS.items()),
            "Host *",
            f"  Port {port}",
            f"  IdentityFile {folder}/key",
            "  IdentitiesOnly yes",
            f"  UserKnownHostsFile {folder}/known_hosts",
            "  StrictHostKeyChecking accept-new",
            "  LogLevel ERROR",
        ]
        (folder / "sshd_config").write_text("\n".join(server) + "\n")
        (folder / "ssh_config").write_text("\n".join(client) + "\n")

    def _wait_for(self, port: int) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0 and (self.folder / "pid").exists():
                    return
            time.sleep(0.05)
        raise AssertionError(f"sshd does not answer: {(self.folder / 'log').read_text()}")

    def sessions(self) -> list[int]:
        """The server's processes that serve a connection."""
        children = Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text()
        return [int(pid) for pid in children.split()]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
