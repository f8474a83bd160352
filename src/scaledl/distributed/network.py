"""Names, addresses and interfaces of this machine and others. IPv4 first, as gloo and NCCL have it."""

from __future__ import annotations

import fcntl
import ipaddress
import re
import socket
import struct
import subprocess
import time
from contextlib import suppress

LOOPBACK = "127.0.0.1"
SCONTROL_SECONDS = 30.0
_RETRIES, _RETRY_SECONDS = 3, 0.5  # a name server that has no answer just now
_SIOCGIFADDR = 0x8915


def addresses_of(name: str) -> list[str]:
    """The IP addresses of a host, IPv4 first. Raises OSError where it has none."""
    for left in reversed(range(_RETRIES)):
        try:
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            break
        except socket.gaierror as error:
            if error.errno != socket.EAI_AGAIN or not left:
                raise
            time.sleep(_RETRY_SECONDS)
        except UnicodeError as error:  # a label of more than 63 letters
            raise OSError("not a host name") from error
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def slurm_address(node: str) -> str | None:
    """The address under which Slurm itself reaches a node; None where that cannot be found out."""
    command = ["scontrol", "--oneliner", "show", "node", node]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SCONTROL_SECONDS)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\bNodeAddr=(\S+)", done.stdout)
    return match[1] if done.returncode == 0 and match and match[1] != node else None


def is_loopback(address: str) -> bool:
    """
    >>> is_loopback("127.0.1.1"), is_loopback("::1"), is_loopback("10.0.0.1"), is_loopback("n1")
    (True, True, False, False)
    """
    with suppress(ValueError):
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    return False


def is_local(address: str) -> bool:
    """Whether this machine has it."""
    try:
        with socket.socket(_family(address), socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def own_address() -> str:
    """The address that gloo binds to unless it is told otherwise: that of the host's name, else the loopback."""
    with suppress(OSError):
        return next((address for address in addresses_of(socket.gethostname()) if is_local(address)), LOOPBACK)
    return LOOPBACK


def address_towards(target: str) -> str | None:
    """The address from which this machine reaches `target`. Nothing is sent."""
    try:
        with socket.socket(_family(target), socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None


def interface_towards(target: str) -> str | None:
    """The name of the interface through which this machine reaches `target`, where it can be found out."""
    address = address_towards(target)
    if address is None:
        return None
    if is_loopback(address):
        return "lo"
    return next((name for _, name in socket.if_nameindex() if _address_of(name) == address), None)


def _address_of(interface: str) -> str | None:
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
        return socket.inet_ntoa(answer[20:24])
    return None


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
